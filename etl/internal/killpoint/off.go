//go:build !killpoints

package killpoint

// Here marks a step. It does nothing unless the program was built to be killed.
func Here(Point) {}
