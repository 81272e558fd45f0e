package keystone

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strconv"
)

// Token is a secret text that cannot be printed: every fmt verb, JSON, text and slog show a
// placeholder, also inside other structs and wrapped errors. The zero Token is no token.
//
// The text sits in a closure because fmt and the dumpers of tests look into unexported fields
// without asking for methods; they can follow pointers, but not into a function.
type Token struct {
	reveal func() string
}

const (
	redacted       = "[redacted]"
	minTokenLength = 16
	maxTokenLength = 8192
)

// NewToken takes the text of a token: 16 to 8192 visible ASCII characters, after blanks and line
// ends around it are trimmed. The error never holds the text.
func NewToken(text string) (Token, error) {
	trimmed := bytes.Trim([]byte(text), " \t\r\n")
	if n := len(trimmed); n < minTokenLength || n > maxTokenLength {
		return Token{}, fmt.Errorf("token of %d characters: want %d to %d", n, minTokenLength, maxTokenLength)
	}
	for _, c := range trimmed {
		if c <= ' ' || c > '~' {
			return Token{}, errors.New("token with a character that is not visible ASCII")
		}
	}
	return token(string(trimmed)), nil
}

func token(text string) Token { return Token{reveal: func() string { return text }} }

// text is the only way out. Its callers are the two request headers and bodies, the sealer, the
// spool, which seals it with the answer, and the fingerprint.
func (t Token) text() string {
	if t.reveal == nil {
		return ""
	}
	return t.reveal()
}

// IsZero tells that there is no token.
func (t Token) IsZero() bool { return t.reveal == nil }

// Equal compares in constant time.
func (t Token) Equal(u Token) bool {
	return subtle.ConstantTimeCompare([]byte(t.text()), []byte(u.text())) == 1
}

// String is a placeholder.
func (t Token) String() string {
	if t.IsZero() {
		return ""
	}
	return redacted
}

// Format writes the placeholder for every verb.
func (t Token) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, t.String()) }

// GoString is a placeholder.
func (t Token) GoString() string { return t.String() }

// MarshalText is a placeholder.
func (t Token) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// MarshalJSON is a placeholder.
func (t Token) MarshalJSON() ([]byte, error) { return strconv.AppendQuote(nil, t.String()), nil }

// LogValue is a placeholder.
func (t Token) LogValue() slog.Value { return slog.StringValue(t.String()) }

// Fields of a credential that are sealed one by one.
const (
	fieldRefresh = "refresh"
	fieldAccess  = "access"
	fieldSpool   = "spool" // an answer that is not parsed yet
)

// sealer encrypts tokens for the store with AES-256-GCM and a random nonce. A ciphertext opens
// only for the account, generation, field and key it was made for, so a row moved or rolled back
// in the database is noticed.
type sealer struct {
	aead  cipher.AEAD
	mac   []byte
	keyID string
}

// SecretsKeySize is the length of the key that seals tokens, in bytes.
const SecretsKeySize = 32

func newSealer(key []byte) (*sealer, error) {
	if len(key) != SecretsKeySize {
		return nil, fmt.Errorf("secrets key of %d bytes: want %d", len(key), SecretsKeySize)
	}
	derive := func(use string, size int) []byte {
		sub, err := hkdf.Expand(sha256.New, key, "meterhouse keystone "+use, size)
		if err != nil {
			panic(err) // only for lengths beyond 255 hashes
		}
		return sub
	}
	block, err := aes.NewCipher(derive("seal", 32))
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, err
	}
	return &sealer{aead: aead, mac: derive("fingerprint", 32), keyID: hex.EncodeToString(derive("key id", 8))}, nil
}

// seal returns nonce and ciphertext of t.
func (s *sealer) seal(t Token, account string, generation int64, field string) []byte {
	return s.sealBytes([]byte(t.text()), account, generation, field)
}

func (s *sealer) sealBytes(plain []byte, account string, generation int64, field string) []byte {
	return s.aead.Seal(nil, nil, plain, additional(account, generation, field, s.keyID))
}

// keyring seals with one key and opens with two: the former one stays readable while it is changed.
type keyring struct {
	*sealer         // seals
	former  *sealer // nil: none
}

// newKeyring takes the key that seals and the one before it, nil for none.
func newKeyring(key, former []byte) (*keyring, error) {
	current, err := newSealer(key)
	if err != nil {
		return nil, err
	}
	k := &keyring{sealer: current}
	if len(former) == 0 {
		return k, nil
	}
	if k.former, err = newSealer(former); err != nil {
		return nil, fmt.Errorf("former %w", err)
	}
	if k.former.keyID == current.keyID {
		return nil, errors.New("former secrets key is the same as the secrets key")
	}
	return k, nil
}

// by is the sealer of a key id; nil when that key is not at hand.
func (k *keyring) by(keyID string) *sealer {
	switch {
	case keyID == k.keyID:
		return k.sealer
	case k.former != nil && keyID == k.former.keyID:
		return k.former
	}
	return nil
}

// fingerprints are those of a token under every key at hand, that of the key that seals first.
func (k *keyring) fingerprints(t Token) []string {
	all := []string{k.fingerprint(t)}
	if k.former != nil {
		all = append(all, k.former.fingerprint(t))
	}
	return all
}

// open is the reverse of seal, for a ciphertext of the key keyID.
func (k *keyring) open(sealed []byte, account string, generation int64, field, keyID string) (Token, error) {
	plain, err := k.openBytes(sealed, account, generation, field, keyID)
	if err != nil {
		return Token{}, err
	}
	return token(string(plain)), nil
}

// errOtherKey says that a ciphertext is of a key that is not at hand.
var errOtherKey = errors.New("sealed with another secrets key")

func (k *keyring) openBytes(sealed []byte, account string, generation int64, field, keyID string) ([]byte, error) {
	s := k.by(keyID)
	if s == nil {
		configured := k.keyID
		if k.former != nil {
			configured += " and formerly " + k.former.keyID
		}
		return nil, fmt.Errorf("%s token of generation %d is %w: the secrets key %s, configured is %s", field, generation, errOtherKey, keyID, configured)
	}
	plain, err := s.aead.Open(nil, nil, sealed, additional(account, generation, field, keyID))
	if err != nil {
		return nil, fmt.Errorf("%s token of generation %d does not open: it was changed or belongs to another row", field, generation)
	}
	return plain, nil
}

// additional is the data a seal is bound to, each part with its length so that none can run into
// the next.
func additional(account string, generation int64, field, keyID string) []byte {
	var b []byte
	for _, part := range [...]string{account, strconv.FormatInt(generation, 10), field, keyID} {
		b = binary.AppendUvarint(b, uint64(len(part)))
		b = append(b, part...)
	}
	return b
}

// fingerprint tells tokens apart without opening them. It is keyed, so a stolen database does not
// allow to test guesses.
func (s *sealer) fingerprint(t Token) string {
	h := hmac.New(sha256.New, s.mac)
	_, _ = io.WriteString(h, t.text())
	return hex.EncodeToString(h.Sum(nil))
}
