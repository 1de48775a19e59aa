package rotation

import (
	"context"
	"time"
)

// Apt is what is asked before an effect is carried out.
var Apt = apt

// ResumeCourse is what a person makes of a paused course.
func ResumeCourse(c Course, now time.Time) Course {
	c.resume(now)
	return c
}

// Rounds returns what Run does again and again.
func (s *Campaigns) Rounds() func(context.Context) error {
	return (&campaigning{Campaigns: s, back: map[int64]time.Time{}, aborted: map[int64]time.Time{}}).round
}
