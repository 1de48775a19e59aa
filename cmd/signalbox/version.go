package main

import (
	"cmp"
	"fmt"
	"runtime"
	"runtime/debug"
)

// Set by the linker for a release: -ldflags "-X main.releaseVersion=v1.2.3".
var (
	releaseVersion string
	releaseCommit  string
)

type versionCommand struct{}

// Help is printed below the command's summary.
func (versionCommand) Help() string {
	return `Put it into every report of a fault.

    signalbox version`
}

// Run prints the version.
func (versionCommand) Run(term terminal) error {
	_, err := fmt.Fprintln(term.out, version())
	return err
}

// build is what is known of how the program was built.
type build struct{ number, commit string }

func readBuild() build {
	number, commit, changed := "", "", ""
	if info, ok := debug.ReadBuildInfo(); ok {
		if info.Main.Version != "(devel)" {
			number = info.Main.Version
		}
		for _, s := range info.Settings {
			switch {
			case s.Key == "vcs.revision":
				commit = s.Value
			case s.Key == "vcs.modified" && s.Value == "true":
				changed = "+changes"
			}
		}
	}
	return build{cmp.Or(releaseVersion, number, "devel"), cmp.Or(releaseCommit, cmp.Or(commit, "unknown")+changed)}
}

// String tells one build from another: the version that open pages compare.
func (b build) String() string { return b.number + "-" + b.commit }

// version returns version, commit and Go version on one line.
func version() string {
	b := readBuild()
	return fmt.Sprintf("signalbox %s commit %s %s %s/%s", b.number, b.commit, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}
