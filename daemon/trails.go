package daemon

import (
	"context"
	"net/http"

	"storefs/prefetch"
)

func (s *Server) trails(w http.ResponseWriter, _ *http.Request) error {
	all, err := s.Trails.Trails()
	if err != nil {
		return err
	}
	writeJSON(w, all)
	return nil
}

func (s *Server) addTrails(w http.ResponseWriter, r *http.Request) error {
	var all []prefetch.Trail
	if err := readJSON(w, r, &all); err != nil {
		return err
	}
	n, err := s.Trails.AddTrails(r.Context(), all)
	if err != nil {
		return err
	}
	writeJSON(w, n)
	return nil
}

// Trails are what was learned of programs.
func (c *Client) Trails(ctx context.Context) ([]prefetch.Trail, error) {
	res, err := c.get(ctx, "trails", nil)
	return decode[[]prefetch.Trail](ctx, res, err)
}

// AddTrails adds what was learned elsewhere, and returns how many of them are
// newer than what was there.
func (c *Client) AddTrails(ctx context.Context, all []prefetch.Trail) (int, error) {
	res, err := c.post(ctx, "trails", all)
	return decode[int](ctx, res, err)
}
