package gateway

// Parse returns what a body of /internal/send has written, or what is wrong with it.
func Parse(body []byte) (block []byte, code, message string) {
	cmd, p := parse(body)
	if p == nil {
		p = cmd.extra
	}
	if p != nil {
		return nil, p.code, p.message
	}
	if cmd.frame != nil {
		block = cmd.frame.Block()
	}
	return block, "", ""
}
