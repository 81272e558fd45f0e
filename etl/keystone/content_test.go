package keystone

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// goldenSum stands for what Transform makes of the golden answers by the rules of readingRules.
const goldenSum = "1 373bde6690087d40"

// An answer that the vendor repeats word for word is not read again, as long as the rules are the same: whoever
// changes what Transform says must say so.
func TestReadingRules(t *testing.T) {
	t.Parallel()
	var files []string
	for _, pattern := range []string{"testdata/*/*/want.json", "testdata/*/*/want.err"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, found...)
	}
	slices.Sort(files)
	all := sha256.New()
	for _, f := range files {
		want, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(all, "%s %d\n%s", f, len(want), want)
	}
	if got := fmt.Sprintf("%d %x", readingRules, all.Sum(nil)[:8]); got != goldenSum {
		t.Errorf("rules and golden answers %s, want %s: where an answer that was read before is read differently now, raise readingRules in content.go; then write the new sum here",
			got, goldenSum)
	}
}
