// Package holder keeps a mount alive while its server is not. A holder is a
// small process that has the mount's files open, watches the server, and starts
// another one when it dies; Link is the server's end of it. It knows nothing of
// FUSE, stores or the command line: it passes files and arguments on.
//
// Each of the two can be killed at any time: the server is started again by the
// holder, the holder by the server. Only when both are gone, so is the mount.
//
// They talk by packets on a socket:
//
//	server                          holder
//	  standing by    →                        I have started, and can begin; and, if I
//	                                          say "heir", also when you have died
//	                 ←  take [files]          nobody else serves: begin, with these;
//	                                          to the only server, as soon as it is started
//	  hold [files]   →                        keep these
//	  ready          →
//	  status LINE    →                        the service manager may show this
//	  ending         →                        I am giving the mount up
//	  upgrade PATH   →                        start PATH in my place
//	  call off       →                        nobody wants that any more
//	                 ←  refused WHY           it did not start
//	                 ←  spare [files,         to it, an heir: these are held, by the server
//	                    pidfd, pipe]          before, which writes when it is told to part
//	                 ←  part [pipe]           it did: leave it the mount, and end
//	  adopt [pidfd]  →                        you are new; I was here before
package holder

import "time"

// The packets.
const (
	packetStandingBy = 's'
	packetTake       = 't'
	packetHold       = 'h'
	packetReady      = 'r'
	packetEnding     = 'e'
	packetStatus     = 'l'
	packetUpgrade    = 'u'
	packetCallOff    = 'c'
	packetRefused    = 'n'
	packetPart       = 'p'
	packetAdopt      = 'a'
	packetSpare      = 'f'
)

// heir is what a server says that knows what to do with a spare packet. One of a
// version before does not say it, and gets none.
const heir = "heir"

// Name is the first argument of a holder: who is called so has to call Run.
const Name = "storefs-holder"

// Environment variables that pass descriptors on, by number.
const (
	envLink  = "STOREFS_LINK"  // a server's end of the socket
	envAdopt = "STOREFS_ADOPT" // a holder's end, of one that adopts a server
	envState = "STOREFS_HELD"  // what a holder is told by the program that it was before
)

const (
	// maxDeaths is after how many deaths in a row, each within stable of being
	// ready, or before, a server is given up.
	maxDeaths = 5
	stable    = time.Second
	// firstDelay is before the second start after such a death; it doubles.
	firstDelay = 50 * time.Millisecond
	// partTime is how long a server may take to leave the mount to the next
	// one. Then it is killed, which does no harm.
	partTime = 250 * time.Millisecond
	// upgradeTime is how long a new program may take until it can begin, which is
	// nothing but its start: what takes that long will not.
	upgradeTime = 30 * time.Second
	// slowness is how long what was said may take to be written when nothing else is
	// left to do: where somebody reads, it is there by then.
	slowness = time.Second
	// answerTime is how long a holder may take to answer what it answers at once.
	answerTime = time.Second
)
