package fs

// Nodes is how many nodes the kernel knows.
func (s *Server) Nodes() int { return s.raw.nodes.size() }
