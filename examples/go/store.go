package main

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// store is what must survive a crash of this program: which refund belongs to which order, and how
// far the event stream has been read. A shop keeps both in its database.
type store struct {
	path    string
	Refunds map[string]string `json:"refunds"`
	// Not on disk before save.
	LastSequence int64 `json:"last_sequence"`
}

func openStore(path string) (*store, error) {
	opened := &store{path: path, Refunds: map[string]string{}}
	content, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return opened, nil
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(content, opened); err != nil {
		return nil, fmt.Errorf("%s is not a store: %w", path, err)
	}
	return opened, nil
}

// refundID is the order's. A new one is on disk before it is returned.
func (store *store) refundID(order string) (string, error) {
	if id, ok := store.Refunds[order]; ok {
		return id, nil
	}
	id := newUUID()
	store.Refunds[order] = id
	return id, store.save()
}

// save replaces the old file by a new one at once, so that a crash leaves one of the two.
func (store *store) save() error {
	content, err := json.MarshalIndent(store, "", "  ")
	if err != nil {
		return err
	}
	unfinished := store.path + ".new"
	file, err := os.Create(unfinished)
	if err != nil {
		return err
	}
	_, written := file.Write(content)
	if err := errors.Join(written, file.Sync(), file.Close()); err != nil {
		return err
	}
	if err := os.Rename(unfinished, store.path); err != nil {
		return err
	}
	folder, err := os.Open(filepath.Dir(store.path))
	if err != nil {
		return err
	}
	return errors.Join(folder.Sync(), folder.Close())
}

func newUUID() string {
	var random [16]byte
	// It never fails: the program ends where the system has no random bytes.
	rand.Read(random[:])
	random[6] = random[6]&0x0f | 0x40
	random[8] = random[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", random[:4], random[4:6], random[6:8], random[8:10], random[10:])
}
