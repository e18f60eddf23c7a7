package holder_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"storefs/holder"
)

func TestServerIsKilled(t *testing.T) {
	t.Parallel()
	m := newMount(t)
	m.start()
	m.noted(1, "lives")
	for i := range 3 {
		pid := m.one("server")
		m.kill(pid)
		m.noted(i+1, `takes "mount"`)
		m.says(fmt.Sprintf("storefs: the server (pid %d) died: killed; starting it again\n", pid))
	}
	unix.Kill(m.cmd.Process.Pid, unix.SIGTERM)
	m.ends(5) // as the server does
}

// A holder lives on when nobody reads any more what it says.
func TestNobodyReads(t *testing.T) {
	t.Parallel()
	m := newMount(t)
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	read.Close()
	defer write.Close()
	m.cmd = exec.Command(filepath.Join(m.dir, program), m.dir)
	m.cmd.Stdout, m.cmd.Stderr = write, write
	m.run(nil)
	m.noted(1, "lives")
	for i := range 2 {
		m.kill(m.one("server"))
		m.noted(i+1, `takes "mount"`)
	}
	unix.Kill(m.cmd.Process.Pid, unix.SIGTERM)
	m.ends(5)
}

func TestHolderIsKilled(t *testing.T) {
	t.Parallel()
	m := newMount(t)
	m.start()
	m.noted(1, "lives")
	server := m.one("server")
	for range 3 {
		dead := m.one(holder.Name)
		m.kill(dead)
		next := m.one(holder.Name)
		m.says(fmt.Sprintf("storefs: the holder died; the next one is process %d\n", next))
	}
	if m.one("server") != server {
		t.Error("the server was started again")
	}
	// The adopted server is one like any other.
	time.Sleep(50 * time.Millisecond) // until it has been adopted
	m.kill(server)
	m.noted(1, `takes "mount"`)
	m.says(fmt.Sprintf("storefs: the server (pid %d) died: it was no child of this process; starting it again\n", server))
	unix.Kill(m.one(holder.Name), unix.SIGTERM)
	m.gone()
}

// One after the other, in both orders, and with hardly a pause.
func TestEachIsKilled(t *testing.T) {
	t.Parallel()
	m := newMount(t)
	m.start()
	m.noted(1, "lives")
	taken := 0
	for range 2 {
		time.Sleep(1100 * time.Millisecond) // not a quick death
		m.kill(m.one("server"))
		taken++
		m.noted(taken, "takes")
		m.kill(m.one(holder.Name))
		m.one(holder.Name)
		time.Sleep(50 * time.Millisecond)
	}
	unix.Kill(m.listening(), unix.SIGINT)
	m.gone()
}

// Only when both die together, it is over.
func TestBothAreKilled(t *testing.T) {
	t.Parallel()
	m := newMount(t)
	m.start()
	m.noted(1, "lives")
	m.kill(m.one("server"), m.one(holder.Name))
	m.ends(-1)
	time.Sleep(100 * time.Millisecond)
	m.gone()
}

// A server that has hardly been started is enough for the mount to survive.
func TestHolderIsKilledBeforeTheServerTakes(t *testing.T) {
	t.Parallel()
	m := newMount(t)
	m.start()
	m.noted(1, "lives")
	m.set(program + "-slow")
	m.kill(m.one("server"))
	m.one("server")
	m.kill(m.one(holder.Name))
	m.noted(1, `takes "mount"`)
	unix.Kill(m.listening(), unix.SIGTERM)
	m.gone()
}

// A holder that dies before there is a mount is replaced when there is one.
func TestHolderIsKilledBeforeItHolds(t *testing.T) {
	t.Parallel()
	m := newMount(t)
	m.set(program + "-pauses")
	m.start()
	m.noted(1, "begins")
	m.kill(m.one(holder.Name))
	m.noted(1, "lives")
	m.says("storefs: the holder died; the next one is process ")
	m.kill(m.one("server"))
	m.noted(1, `takes "mount"`)
	unix.Kill(m.listening(), unix.SIGTERM)
	m.gone()
}

// A server that cannot live is not started for ever.
func TestServerCannotLive(t *testing.T) {
	t.Parallel()
	for what, starts := range map[string]int{"early": 0, "taken": 0, "late": 4} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			m := newMount(t)
			m.start()
			m.noted(1, "lives") // so that what is set concerns the next ones
			m.set(program + "-" + what)
			m.kill(m.one("server"))
			m.ends(1)
			m.noted(1, `detached "mount"`)
			if !strings.HasSuffix(m.log(), "storefs: the mount is given up: the server died 5 times in a row, the last time by: exit status 7\n") {
				t.Errorf("%s", m.log())
			}
			if got := strings.Count(strings.Join(m.notes(), "\n"), "takes"); got != starts {
				t.Errorf("it was taken over %d times, want %d", got, starts)
			}
		})
	}
}

// A server that never had a mount has nothing to be started again for.
func TestServerNeverBegan(t *testing.T) {
	t.Parallel()
	m := newMount(t)
	m.set(program + "-taken")
	m.start()
	m.ends(7)
	if m.log() != "" {
		t.Errorf("%s", m.log())
	}
}

// Holders that die as soon as they are started are given up too: the server
// goes on alone.
func TestHolderCannotLive(t *testing.T) {
	t.Parallel()
	m := newMount(t)
	m.start()
	m.noted(1, "lives")
	server := m.one("server")
	m.until("it gives up", func() bool {
		if pids := m.pids(holder.Name); len(pids) > 0 {
			m.kill(pids...)
		}
		return strings.Contains(m.log(), "the mount does not survive this process any more")
	})
	if !strings.HasSuffix(m.log(), "storefs: the holder died 5 times in a row: the mount does not survive this process any more\n") {
		t.Errorf("%s", m.log())
	}
	if m.one("server") != server {
		t.Error("the server did not go on")
	}
	unix.Kill(server, unix.SIGTERM)
	m.gone()
}

// A signal ends the mount also while no server is there.
func TestInterruptedBetweenServers(t *testing.T) {
	t.Parallel()
	m := newMount(t)
	m.start()
	m.noted(1, "lives")
	m.set(program + "-early")
	m.kill(m.one("server"))
	m.says("died: exit status 7")
	for range 3 { // it may be the server's turn when the first comes
		m.cmd.Process.Signal(unix.SIGTERM)
		time.Sleep(5 * time.Millisecond)
	}
	m.ends(1)
	m.noted(1, `detached "mount"`)
}

// A signal that comes before the server can hear one ends both, as it does later.
func TestInterruptedBeforeTheServerHears(t *testing.T) {
	t.Parallel()
	m := newMount(t)
	m.set(program + "-hangs")
	m.start()
	m.one("server")
	unix.Kill(m.listening(), unix.SIGTERM)
	m.ends(130)
	if m.log() != "" {
		t.Errorf("it says %q", m.log())
	}
}

// upgrade lets the server ask for another program.
func (m *mount) upgrade(program string) {
	m.t.Helper()
	if err := os.WriteFile(filepath.Join(m.dir, "program"), []byte(program), 0o644); err != nil {
		m.t.Fatal(err)
	}
	unix.Kill(m.one("server"), unix.SIGUSR2)
}

func TestUpgrade(t *testing.T) {
	t.Parallel()
	for _, stubborn := range []bool{false, true} {
		t.Run(fmt.Sprint("stubborn ", stubborn), func(t *testing.T) {
			t.Parallel()
			m := newMount(t)
			if stubborn {
				m.set(program + "-stubborn")
			}
			m.start()
			m.noted(1, "lives")
			before := m.one("server")
			began := time.Now()
			m.upgrade(m.install("new"))
			m.noted(1, fmt.Sprintf("%s %d is told to part", program, before))
			m.noted(1, `takes "mount"`)
			if took := time.Since(began); stubborn && took < 200*time.Millisecond {
				t.Errorf("it was killed after %v", took)
			}
			server := m.one("server")
			if server == before || exe(server) != "new" {
				t.Errorf("process %d after %d serves as %s", server, before, exe(server))
			}
			// The holder is the same process, and the new program.
			if got := m.one(holder.Name); got != m.cmd.Process.Pid {
				t.Errorf("the holder is process %d, not %d", got, m.cmd.Process.Pid)
			}
			m.until("the holder is the new program", func() bool { return exe(m.cmd.Process.Pid) == "new" })
			m.kill(server)
			m.noted(2, `new `)
			if got := exe(m.one("server")); got != "new" {
				t.Errorf("%s was started again", got)
			}
			// And back.
			m.upgrade(filepath.Join(m.dir, program))
			m.until("the old program serves", func() bool {
				pids := m.pids("server")
				return len(pids) == 1 && exe(pids[0]) == program && exe(m.cmd.Process.Pid) == program
			})
			unix.Kill(m.listening(), unix.SIGTERM)
			m.ends(5)
		})
	}
}

// A program that does not serve changes nothing.
func TestUpgradeRefused(t *testing.T) {
	t.Parallel()
	m := newMount(t)
	m.start()
	m.noted(1, "lives")
	server := m.one("server")
	failing := filepath.Join(m.dir, "failing")
	if err := os.WriteFile(failing, []byte("#!/bin/sh\nexit 3\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for i, c := range []struct{ program, want string }{
		{filepath.Join(m.dir, "nothing"), "nothing: no such file or directory"},
		{m.dir, "permission denied"},
		{failing, "the new program ended before it could serve: exit status 3"},
	} {
		m.upgrade(c.program)
		if line := m.noted(i+1, "refused: "); !strings.HasSuffix(line, c.want) {
			t.Errorf("%s, want %s", line, c.want)
		}
	}
	if m.one("server") != server || strings.Contains(strings.Join(m.notes(), "\n"), "part") {
		t.Error("something was changed")
	}
	// One that dies when it is too late for that: the one before goes on.
	m.set("new-taken")
	m.upgrade(m.install("new"))
	m.noted(1, `takes "mount"`)
	m.says("storefs: the new program does not serve (exit status 7): going back to the one before\n")
	if got := exe(m.one("server")); got != program || exe(m.cmd.Process.Pid) != program {
		t.Errorf("%s serves", got)
	}
	// So it does when its server dies again.
	m.noted(2, "lives")
	m.kill(m.one("server"))
	m.noted(3, "lives")
	if got := exe(m.one("server")); got != program || exe(m.cmd.Process.Pid) != program {
		t.Errorf("%s was started again", got)
	}
	unix.Kill(m.cmd.Process.Pid, unix.SIGTERM)
	m.ends(5)
}

// A program that hangs changes nothing: it is ended when it has had its time, when
// nobody wants it any more, and when the server dies, for which nobody waits longer.
func TestUpgradeHangs(t *testing.T) {
	t.Parallel()
	begin := func(t *testing.T, set ...string) (m *mount, server int) {
		m = newMount(t)
		for _, what := range append(set, "hangs-hangs") {
			m.set(what)
		}
		m.start()
		m.noted(1, "lives")
		server = m.one("server")
		m.upgrade(m.install("hangs"))
		return m, server
	}
	goesOn := func(m *mount, server int) {
		m.t.Helper()
		if got := m.one("server"); got != server {
			m.t.Errorf("process %d serves, not %d", got, server)
		}
		if n := strings.Join(m.notes(), "\n"); strings.Contains(n, "part") {
			m.t.Errorf("something was changed: %s", n)
		}
	}
	t.Run("for too long", func(t *testing.T) {
		t.Parallel()
		m, server := begin(t, "impatient")
		m.noted(1, "refused: the new program was not ready to begin after 200ms")
		goesOn(m, server)
		unix.Kill(m.cmd.Process.Pid, unix.SIGTERM)
		m.ends(5)
	})
	t.Run("unwanted", func(t *testing.T) {
		t.Parallel()
		m, server := begin(t, program+"-hasty")
		m.noted(1, "refused: context canceled")
		goesOn(m, server)
		// The answer to that is not taken for one to the next.
		os.Remove(filepath.Join(m.dir, program+"-hasty"))
		m.upgrade(m.install("new"))
		m.noted(1, `takes "mount"`)
		if got := exe(m.one("server")); got != "new" {
			t.Errorf("then %s serves", got)
		}
		m.until("the holder is the new program", func() bool { return exe(m.cmd.Process.Pid) == "new" })
		unix.Kill(m.listening(), unix.SIGTERM)
		m.ends(5)
	})
	t.Run("and the server dies", func(t *testing.T) {
		t.Parallel()
		m, server := begin(t)
		m.until("the new program has begun", func() bool { return len(m.pids("server")) == 2 })
		m.kill(server)
		m.noted(1, `takes "mount"`)
		if got := exe(m.one("server")); got != program {
			t.Errorf("%s serves", got)
		}
		unix.Kill(m.listening(), unix.SIGTERM)
		m.ends(5)
	})
}

// The holder dies in the middle of an upgrade: the mount goes on, with the server
// before or, if that was told to part, the new one.
func TestUpgradeWithoutHolder(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ what, set, when, serves string }{
		{"before it begins", "new-hangs", "", program},
		{"while the server before ends", program + "-lingers", "has closed its link", "new"},
	} {
		t.Run(c.what, func(t *testing.T) {
			t.Parallel()
			m := newMount(t)
			m.set(c.set)
			m.start()
			m.noted(1, "lives")
			before := m.one("server")
			m.upgrade(m.install("new"))
			if c.when == "" {
				m.until("the new program has begun", func() bool { return len(m.pids("server")) == 2 })
			} else {
				m.noted(1, c.when)
			}
			m.kill(m.cmd.Process.Pid)
			if c.serves == "new" {
				m.noted(1, `new `)
			} else {
				m.noted(1, "refused: the holder is gone")
				for _, pid := range m.pids("server") {
					if pid != before {
						m.kill(pid)
					}
				}
			}
			m.says("storefs: the holder died; the next one is process ")
			server := m.one("server")
			if got := exe(server); got != c.serves || (server == before) != (got == program) {
				t.Errorf("process %d after %d serves as %s", server, before, got)
			}
			m.one(holder.Name)
			time.Sleep(50 * time.Millisecond) // until it has adopted the server
			m.kill(server)
			m.until("another server", func() bool {
				pids := m.pids("server")
				return len(pids) == 1 && pids[0] != server && exe(pids[0]) == c.serves
			})
			unix.Kill(m.listening(), unix.SIGTERM)
			m.gone()
		})
	}
}

// To a program that knows fewer packets, an upgrade is what it was.
func TestUpgradeToTheVersionBefore(t *testing.T) {
	t.Parallel()
	m := newMount(t)
	m.set("ancient-ancient")
	m.start()
	m.noted(1, "lives")
	m.upgrade(m.install("ancient"))
	m.noted(1, `takes "mount"`)
	m.until("the holder is that program", func() bool { return exe(m.cmd.Process.Pid) == "ancient" })
	unix.Kill(m.listening(), unix.SIGTERM)
	m.ends(5)
}

// A holder that cannot become the new program goes on as it was, and servers that it
// starts have nothing of the attempt.
func TestHolderCannotBecome(t *testing.T) {
	t.Parallel()
	m := newMount(t)
	m.set("new-vanishes")
	m.start()
	m.noted(1, "lives")
	pid := m.cmd.Process.Pid
	// The server lives when it has sent that, and perhaps before it has come.
	m.until("the mount is held", func() bool { return strings.Count(opened(pid), "held") == 2 })
	before := opened(pid)
	m.upgrade(m.install("new"))
	m.says("storefs: the holder goes on as the program before: no such file or directory\n")
	m.until("the holder has what it had", func() bool { return opened(pid) == before })
	m.kill(m.one("server"))
	m.noted(2, "takes")
	m.noted(3, "lives")
	if got := strings.Count(opened(m.one("server")), "held"); got != 2 {
		t.Errorf("the next server has %d descriptors of what is held, want 2", got)
	}
	unix.Kill(m.listening(), unix.SIGTERM)
	m.ends(5)
}

// opened is what a process has open.
func opened(pid int) string {
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	var all []string
	for _, f := range files {
		to, _ := os.Readlink(f)
		to, _, _ = strings.Cut(to, ":[") // which one of its kind
		all = append(all, to)
	}
	slices.Sort(all)
	return strings.Join(all, "\n")
}

// A mount that does not survive its server is not taken from it either.
func TestUpgradeWithNothingHeld(t *testing.T) {
	t.Parallel()
	m := newMount(t)
	m.set(program + "-alone")
	m.start()
	m.noted(1, "lives")
	server := m.one("server")
	m.upgrade(m.install("new"))
	if line := m.noted(1, "refused: "); !strings.HasSuffix(line, "there is nothing that another server could go on with") {
		t.Error(line)
	}
	if m.one("server") != server {
		t.Error("another server serves")
	}
	m.kill(server)
	m.ends(128 + int(unix.SIGKILL))
	m.says(fmt.Sprintf("storefs: the server (pid %d) died: killed; there is nothing that another one could go on with\n", server))
}
