package config

import (
	"reflect"

	"github.com/alecthomas/kong"
)

// Flags gives a kong command a flag for every setting: embed it. Its parser
// needs the option [AsText]; after parsing, [Given] returns what Load takes.
// The fields themselves stay empty.
type Flags struct {
	File     string `name:"config" env:"SIGNALBOX_CONFIG" group:"Settings file" placeholder:"FILE" help:"File of settings, one NAME=VALUE a line."`
	Settings Config `embed:""`
}

// AsText is a kong option that takes every setting's flag as text. kong would
// otherwise stop at the first value that is not of its type; as text they all
// arrive, and Load reports their mistakes along with those of all other sources.
func AsText() kong.Option {
	return kong.PostBuild(func(k *kong.Kong) error {
		return kong.Visit(k.Model, func(node kong.Visitable, next kong.Next) error {
			if f, ok := node.(*kong.Flag); ok && settingOf(f) != "" {
				f.Mapper = textMapper{f.IsBool()}
				f.Target = reflect.New(reflect.TypeFor[string]()).Elem()
			}
			return next(nil)
		})
	})
}

// Given returns the settings that the parsed command line gave, by name.
func Given(ctx *kong.Context) map[string]string {
	found := map[string]string{}
	for _, p := range ctx.Path {
		if p.Flag == nil || p.Resolved {
			continue
		}
		if name := settingOf(p.Flag); name != "" {
			found[name] = p.Flag.Target.String()
		}
	}
	return found
}

// settingOf returns the name of the setting that a flag is for, or "".
func settingOf(f *kong.Flag) string {
	if f.Tag.Has("of") { // of another command, under the same name
		return ""
	}
	for _, name := range f.Envs {
		if known(name) || name == FileVariable {
			return name
		}
	}
	return ""
}

// textMapper takes a flag's value as it is. A flag that needs no value reads
// as "true" without one.
type textMapper struct{ boolean bool }

// IsBool tells kong whether the flag may stand alone.
func (m textMapper) IsBool() bool { return m.boolean }

// Decode implements kong.Mapper.
func (m textMapper) Decode(ctx *kong.DecodeContext, target reflect.Value) error {
	if m.boolean && ctx.Scan.Peek().Type != kong.FlagValueToken {
		target.SetString("true")
		return nil
	}
	return ctx.Scan.PopValueInto("value", target.Addr().Interface())
}
