package gateway

import "context"

type Queues struct{}
type binding struct{}

func (*Queues) run(context.Context)                             {}
func (*Queues) connected() bool                                 { return false }
func (*Queues) bind(c *connection, id string, b []string) error { return nil }
func (b *binding) release()                                     {}
