package access

// Cheap makes hashing passwords quick.
func Cheap(s *Service) { s.cost = cost{memory: 8, passes: 1, lanes: 1} }

// Dear is Cheap at another price.
func Dear(s *Service) { s.cost = cost{memory: 16, passes: 1, lanes: 1} }
