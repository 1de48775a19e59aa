package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
)

type completionCommand struct {
	Shell string `arg:"" enum:"bash,zsh,fish" help:"bash, zsh or fish."`
}

// Help is printed below the command's summary.
func (completionCommand) Help() string {
	return `Once, for the shell that is open:

    source <(signalbox completion bash)

For every new one, put that line into ~/.bashrc; for zsh likewise into ~/.zshrc, after compinit; for fish:

    signalbox completion fish > ~/.config/fish/completions/signalbox.fish`
}

// The scripts know nothing of the commands: they hand the words typed so far,
// the unfinished one last, to `signalbox __complete` and offer what it prints.
const (
	bashScript = `_signalbox() {
    local IFS=$'\n' words=("${COMP_WORDS[@]:1:COMP_CWORD}")
    # Bash splits --flag=value into three words: put it together again.
    local joined=() word
    for word in "${words[@]}"; do
        if [[ ${#joined[@]} -gt 0 && ( $word == = || ${joined[-1]} == --*= ) ]]; then
            joined[-1]+=$word
        else
            joined+=("$word")
        fi
    done
    COMPREPLY=($("${COMP_WORDS[0]}" __complete "${joined[@]}" 2>/dev/null))
    if [[ ${joined[-1]} == --*=* ]]; then
        COMPREPLY=("${COMPREPLY[@]#*=}")
    fi
}
complete -o bashdefault -o default -F _signalbox signalbox
`
	zshScript = `#compdef signalbox
_signalbox() {
    local -a found
    found=(${(f)"$("${words[1]}" __complete "${(@)words[2,CURRENT]}" 2>/dev/null)"})
    if (( ${#found} )); then
        compadd -- $found
    else
        _files
    fi
}
compdef _signalbox signalbox
`
	fishScript = `complete -c signalbox -a '(set -l words (commandline -opc) (commandline -ct); $words[1] __complete $words[2..] 2>/dev/null)'
`
)

// Run prints the script.
func (c *completionCommand) Run(term terminal) error {
	script := map[string]string{"bash": bashScript, "zsh": zshScript, "fish": fishScript}[c.Shell]
	_, err := fmt.Fprint(term.out, script)
	return err
}

type completeCommand struct {
	Words []string `arg:"" optional:""`
}

// Run prints what could stand in place of the last word, one a line.
func (c *completeCommand) Run(parser *kong.Kong, term terminal) error {
	if len(c.Words) > 0 && c.Words[0] == "--" {
		c.Words = c.Words[1:]
	}
	for _, candidate := range complete(parser.Model.Node, c.Words) {
		if _, err := fmt.Fprintln(term.out, candidate); err != nil {
			return err
		}
	}
	return nil
}

// complete returns what could stand in place of the last of words, which are
// typed below node. Nothing means that a file name may be meant.
func complete(node *kong.Node, words []string) []string {
	if len(words) == 0 {
		words = []string{""}
	}
	last := words[len(words)-1]
	var expects *kong.Flag // the flag whose value comes next
	position := 0
	for _, word := range words[:len(words)-1] {
		switch {
		case expects != nil:
			expects = nil
		case strings.HasPrefix(word, "-"):
			if f := flagNamed(node, word); f != nil && !f.IsBool() {
				expects = f
			}
		default:
			if i := slices.IndexFunc(node.Children, func(n *kong.Node) bool { return n.Name == word }); i >= 0 {
				node = node.Children[i]
			} else {
				position++
			}
		}
	}
	var all []string
	switch name, _, assigned := strings.Cut(last, "="); {
	case expects != nil:
		all = enum(expects.Value)
	case strings.HasPrefix(last, "-") && assigned:
		if f := flagNamed(node, name); f != nil {
			for _, value := range enum(f.Value) {
				all = append(all, name+"="+value)
			}
		}
	case strings.HasPrefix(last, "-"):
		for _, group := range node.AllFlags(true) {
			for _, f := range group {
				all = append(all, "--"+f.Name)
			}
		}
	default:
		for _, child := range node.Children {
			if !child.Hidden {
				all = append(all, child.Name)
			}
		}
		if position < len(node.Positional) {
			all = append(all, enum(node.Positional[position])...)
		}
	}
	return slices.DeleteFunc(all, func(s string) bool { return !strings.HasPrefix(s, last) })
}

// flagNamed returns the flag of node or its parents that is written so.
func flagNamed(node *kong.Node, word string) *kong.Flag {
	for _, group := range node.AllFlags(false) {
		for _, f := range group {
			if word == "--"+f.Name || f.Short != 0 && word == "-"+string(f.Short) {
				return f
			}
		}
	}
	return nil
}

// enum returns the words that a value is limited to.
func enum(v *kong.Value) []string {
	var words []string
	switch {
	case v.Enum != "":
		words = v.EnumSlice()
	case v.Tag.Has("oneof"): // a setting of serve
		words = strings.Split(v.Tag.Get("oneof"), ",")
	case v.IsBool():
		words = []string{"true", "false"}
	}
	return slices.DeleteFunc(words, func(s string) bool { return s == "" })
}
