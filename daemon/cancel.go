package daemon

import (
	"net/http"

	"storefs/store"
)

// cancelRequest names what is to be cancelled: Paths, or everything.
type cancelRequest struct {
	Paths []store.Path `json:"paths,omitempty"`
	All   bool         `json:"all,omitempty"`
}

func (s *Server) cancelGoals(w http.ResponseWriter, r *http.Request) (err error) {
	var req cancelRequest
	if err := readJSON(w, r, &req); err != nil {
		return err
	}
	var ended []store.Path
	if req.All {
		ended, err = s.Realiser.CancelAll(r.Context())
	} else {
		ended, err = s.Realiser.Cancel(r.Context(), req.Paths)
	}
	if err != nil {
		return err
	}
	writeJSON(w, ended)
	return nil
}
