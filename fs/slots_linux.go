package fs

import (
	"errors"

	"golang.org/x/sys/unix"
)

// step is what is known of the slots [i*stepSlots, (i+1)*stepSlots).
type step struct {
	used int
	next uint32 // the slots from here on were never used
	free uint32 // the first of a list of slots that were; 0 is its end
}

// alloc returns a free slot, or 0 if there is no memory for it.
func (j *journal) alloc() uint32 {
	for ; j.first < len(j.steps); j.first++ {
		st := &j.steps[j.first]
		if st.free != 0 {
			i := st.free
			st.free = j.slot(i).more
			st.used++
			return i
		}
		if st.next < uint32((j.first+1)*stepSlots) {
			if st.used == 0 && j.commit(j.first) != nil {
				return 0
			}
			st.next++
			st.used++
			return st.next - 1
		}
	}
	k := len(j.steps)
	if (k+1)*stepSlots > maxSlots {
		j.lost = errors.New("too many nodes")
		return 0
	}
	if j.commit(k) != nil {
		return 0
	}
	j.steps = append(j.steps, step{used: 1, next: uint32(k*stepSlots) + 1})
	if k == 0 {
		// Slot 0 stands for none.
		j.steps[0].next++
		j.steps[0].used++
		return 1
	}
	return uint32(k * stepSlots)
}

// commit makes sure that there is memory for a step.
func (j *journal) commit(k int) error {
	err := j.allocate(headerSize+int64(k)*stepSize, stepSize)
	if err != nil {
		j.lost = err
	}
	return err
}

// push puts a slot on the list of free ones.
func (j *journal) push(st *step, i uint32) {
	s := j.slot(i)
	s.more = st.free
	st.free = i
}

func (j *journal) release(i uint32) {
	k := int(i / stepSlots)
	st := &j.steps[k]
	st.used--
	j.first = min(j.first, k)
	if st.used > 0 || k == 0 {
		j.push(st, i)
		return
	}
	// Nothing in it is used: the memory goes back.
	*st = step{next: uint32(k * stepSlots)}
	_ = unix.Fallocate(int(j.file.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, headerSize+int64(k)*stepSize, stepSize)
}
