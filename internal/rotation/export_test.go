package rotation

import "time"

// ResumeCourse is what a person makes of a paused course.
func ResumeCourse(c Course, now time.Time) Course {
	c.resume(now)
	return c
}
