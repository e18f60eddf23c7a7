package storeexpr

import "sync"

// room is where a text is made that is hashed and not kept: one for each would be most of
// what there is to collect.
type room struct{ text []byte }

// maxRoom is the largest that is used again.
const maxRoom = 256 << 10

var rooms = sync.Pool{New: func() any { return &room{make([]byte, 0, 4<<10)} }}

func takeText() *room { return rooms.Get().(*room) }

// of makes a text, which is there until give.
func (r *room) of(appendText func([]byte) []byte) []byte {
	r.text = appendText(r.text[:0])
	return r.text
}

func (r *room) give() {
	if cap(r.text) <= maxRoom {
		rooms.Put(r)
	}
}
