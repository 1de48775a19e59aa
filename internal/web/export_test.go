package web

// Rows returns the methods and patterns of the main listener's table.
func (s *Server) Rows() (rows [][2]string) {
	for _, rt := range s.routes() {
		rows = append(rows, [2]string{rt.method, rt.pattern})
	}
	return rows
}
