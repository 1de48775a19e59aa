package registry

import "context"

// Work does what Run does when it wakes.
func (s *Service) Work(ctx context.Context) error {
	_, err := s.work(ctx)
	return err
}
