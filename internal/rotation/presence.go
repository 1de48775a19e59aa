package rotation

import "time"

// Contact is what is known of how a device keeps in touch.
type Contact struct {
	Online    bool          // it has a session at the broker, or was heard of within the last minutes
	LastSeen  time.Time     // by whatever way; zero: never, or too long ago to be known
	Drops     int           // times that it went away within the last 24 hours
	ClockOff  time.Duration // by how much its clock is ahead of ours, by its own word; negative: behind
	ClockSaid bool          // whether it ever said
}

// Presence tells how devices keep in touch, by their ids.
type Presence func(device int64) Contact
