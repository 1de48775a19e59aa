package main

import (
	"bytes"
	"errors"
	"io"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// binary is the built program; set once before any test runs.
var binary string

func TestMain(m *testing.M) {
	os.Exit(buildAndRun(m))
}

func buildAndRun(m *testing.M) int {
	dir, err := os.MkdirTemp("", "signalbox")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	binary = filepath.Join(dir, "signalbox")
	if out, err := exec.Command("go", "build", "-o", binary, ".").CombinedOutput(); err != nil {
		log.Fatalf("%v\n%s", err, out)
	}
	return m.Run()
}

// command returns the program with args, in an empty directory and with
// nothing in its environment but the given variables.
func command(t *testing.T, environ []string, args ...string) *exec.Cmd {
	t.Helper()
	c := exec.Command(binary, args...)
	c.Dir = t.TempDir()
	c.Env = append([]string{"PATH=" + os.Getenv("PATH")}, environ...)
	return c
}

// exitOf returns the exit code that err of Wait or Run stands for.
func exitOf(t *testing.T, err error) int {
	t.Helper()
	if err == nil {
		return 0
	}
	failed, ok := errors.AsType[*exec.ExitError](err)
	if !ok {
		t.Fatal(err)
	}
	return failed.ExitCode()
}

func TestCommandLine(t *testing.T) {
	f := func(line string, code int, stdout, stderr string, environ ...string) {
		t.Helper()
		c := command(t, environ, strings.Fields(line)...)
		var out, errs bytes.Buffer
		c.Stdout, c.Stderr = &out, &errs
		if got := exitOf(t, c.Run()); got != code {
			t.Errorf("%q: exit code %d, want %d\n%s%s", line, got, code, &out, &errs)
		}
		match := func(name, text, pattern string) {
			if pattern == "" && text != "" || !regexp.MustCompile("(?s)"+pattern).MatchString(text) {
				t.Errorf("%q: %s is %q, want %q", line, name, text, pattern)
			}
		}
		match("stdout", out.String(), stdout)
		match("stderr", errs.String(), stderr)
	}
	f("--help", 0, `serve .*tail .*logs .*sim .*version .*completion`, "")
	f("serve --help", 0, `signalbox serve.*--port=PORT .*default\s+3101,\s+\$PORT`, "")
	f("gateway --help", 0, `--port=PORT .*default 3000,\s+\$PORT.*\$CALLBACK_URL\W.*default 15,\s+\$HEARTBEAT_INTERVAL_SECONDS\W.*\$RABBITMQ_URL\W.*default\s+300000,\s+\$RABBITMQ_QUEUE_TTL_MS\W.*\[\$RABBITMQ_ENV_PREFIX\].*\[\$RABBITMQ_ENV_AUTO_DELETE\]`, "")
	f("tail --help", 0, `signalbox tail --all`, "")
	f("logs --help", 0, `signalbox logs kitchen-sensor hallway -n 1000 -f.*regular\s+expression \(RE2\).*--since=TIME .*-n, --lines=N `, "")
	f("sim --help", 0, `signalbox sim --devices 200`, "")
	f("version --help", 0, `signalbox version`, "")
	f("completion --help", 0, `source <\(signalbox completion bash\)`, "")
	f("version", 0, `^signalbox \S+ commit \S+ go1\.\S+ \S+\n$`, "")
	f("--version", 0, `^signalbox \S+ commit \S+ go1\.\S+ \S+\n$`, "")

	f("", 2, "", `expected one of "serve"`)
	f("sreve", 2, "", `unexpected argument sreve`)
	f("serve --prot=1", 2, "", `unknown flag --prot, did you mean "--port"\?\nTry: signalbox serve --help\n`)
	f("serve extra", 2, "", `unexpected argument extra`)
	f("completion csh", 2, "", `must be one of "bash","zsh","fish"`)
	f("tail --color=pink --all", 2, "", `must be one of "auto","always","never"`)
	f("tail", 2, "", `signalbox: `)
	f("tail --all --server=http://127.0.0.1:1", 1, "", `signalbox: `)

	f("logs", 2, "", `signalbox: Name at least one device`)
	f("logs --all --level=loud", 2, "", `must be one of "error","warn"`)
	f("logs --all -n many", 2, "", `--lines: `)
	f("logs --all --since noon", 2, "", `--since "noon" is no time: use one like`)
	f("logs --all --server=http://127.0.0.1:1", 1, "", `signalbox: Cannot reach`)

	f("import --help", 0, `signalbox import --elasticsearch.*--data-dir=DIR`, "")
	f("import", 2, "", `signalbox: --elasticsearch=URL is missing`)
	f("import --elasticsearch=http://127.0.0.1:1", 2, "", `signalbox: There is no data/signalbox.db`)
	f("import --elasticsearch=nonsense --since=yesterday", 2, "", `signalbox: --since: "yesterday" is not a time`)
	f("import --elasticsearch=http://127.0.0.1:1 --password-file=x", 2, "", `signalbox: --password-file needs --user`)
	f("import --elasticsearch=http://127.0.0.1:1 --user=u --password-file=x", 2, "", `signalbox: --password-file: .*no such file`)
	f("import --elasticsearch=http://127.0.0.1:1", 2, "", `signalbox: LOGS_HISTORY is off`, "LOGS_HISTORY=off")
	f("import --port=x --elasticsearch=http://127.0.0.1:1", 2, "", `mistakes:\n  PORT`)

	f("campaign --help", 0, `signalbox campaign plan --model sensor`, "")
	f("campaign", 2, "", `expected one of "plan"`)
	f("campaign start", 2, "", `expected "<name>"`)
	f("campaign start x", 2, "", `signalbox: Say which devices: --all, --device`)
	f("campaign plan --all --window noon", 2, "", `signalbox: --window "noon" is none: use one like`)
	f("campaign plan --all --server=http://127.0.0.1:1", 1, "", `signalbox: Cannot reach`)
	f("campaign show 1 --follow --devices", 2, "", `signalbox: --devices and --follow do not go together`)
	f("campaign show 1 --state=done", 2, "", `signalbox: --state needs --devices`)
	f("campaign abort one", 2, "", `expected a valid 64 bit int`)

	f("sim --devices=0", 2, "", `signalbox: .*at least 1`)
	f("sim --mqtt=nonsense", 2, "", `signalbox: .*nonsense`)
	f("sim --devices=many", 2, "", `--devices: `)
	f("sim --login=token --flaky=1.5", 2, "", `--flaky: .*not a share`)
	f("sim --login=token --flaky=60% --slow=0.5", 2, "", `signalbox: .*more than all of them`)
	f("sim --flaky=10%", 2, "", `signalbox: .*a login is needed`)

	f("user add --help", 0, `signalbox user add.*--role=ROLE.*--password-stdin.*--data-dir=DIR`, "")
	f("user", 2, "", `expected one of "add"`)
	f("user add", 2, "", `expected "<username>"`)
	f("user add ann", 2, "", `signalbox: the first person must be an admin without a limit, .*--role admin`)
	f("user add ann --role admin", 2, "", `signalbox: there is no terminal to ask for the password: give it to --password-stdin`)
	f("user list", 2, "", `signalbox: There is no data/signalbox.db: is DATA_DIR right\?`)
	f("user list --port=x", 2, "", `mistakes:\n  PORT`)
	f("user roles ann", 2, "", `signalbox: name the roles, or a limit`)
	f("user roles ann --tag x --unlimited", 2, "", `signalbox: --unlimited does not go with`)
	f("token add", 2, "", `missing flags: `)
	f("token add --user x --name y --days 367", 2, "", `signalbox: --days must be 1 to 366`)
	f("token revoke x", 2, "", `signalbox: `)
	f("audit", 2, "", `signalbox: There is no data/signalbox.db`)
	f("audit --json --csv", 2, "", `can't be used together`)
	f("audit --since noon", 2, "", `signalbox: --since "noon" is no time`)
	f("audit -n -1", 2, "", `signalbox: `)

	f("rotation", 2, "", `expected one of "status"`)
	f("rotation rotate", 2, "", `expected "<device>"`)
	f("rotation status --server=http://127.0.0.1:1", 1, "", `signalbox: Cannot reach`)
	f("rotation-job --help", 0, `signalbox rotation-job.*Exit codes: 0 done, 1 failed, 2 a mistake in the\s+settings, 3 `, "")
	f("rotation-job", 2, "", `signalbox: There is no data/signalbox.db: is DATA_DIR right\?`)
	f("rotation-job --port=x", 2, "", `mistakes:\n  PORT`)
	f("rotation-job", 2, "", `signalbox: ROTATION_CRON: "x": want five fields`, "ROTATION_CRON=x")
	f("rotation-job --database-url=postgres://nobody@127.0.0.1:1/none", 1, "", `signalbox: database`)

	f("serve --print-config --port=1", 0, `\nPORT +1 +flag --port\n`, "", "PORT=2")
	f("serve --print-config", 0, `\nDRAIN_AUTH_KEY +\(hidden\) +environment\n`, "", "DRAIN_AUTH_KEY=x")
	f("serve --print-config --port=x --log-level=loud", 2, "", `mistakes:\n  PORT: "x" \(flag --port\): .*\n  HOST: .*\n  LOG_LEVEL: `+
		`|mistakes:\n  PORT: .*\n  LOG_LEVEL: .*\n  HOST: `, "HOST=")
	f("version", 0, `^signalbox`, "", "PORT=x") // the settings of serve are not looked at
}

// Whoever looks at the settings before the server has them learns of those that
// do nothing as well, apart from the table.
func TestPrintConfigWarns(t *testing.T) {
	c := command(t, nil, "serve", "--print-config")
	if err := os.WriteFile(filepath.Join(c.Dir, ".env"), []byte("FLASK_ENV=production\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var errs bytes.Buffer
	c.Stderr = &errs
	out, err := c.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, &errs)
	}
	if got, want := errs.String(), "signalbox: setting ignored: FLASK_ENV (.env:1) has no effect\n"; got != want {
		t.Errorf("stderr is %q, want %q", got, want)
	}
	if strings.Contains(string(out), "FLASK_ENV") {
		t.Errorf("the table has it:\n%s", out)
	}
}

// A client that is interrupted ends as a shell expects it.
func TestInterruptedClient(t *testing.T) {
	f := func(sig syscall.Signal, code int, args ...string) {
		t.Helper()
		server := newSilentServer(t)
		c := command(t, nil, append(args, "--server", server.url)...)
		c.Stderr = os.Stderr
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		server.waitForRequest()
		if err := c.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
		if got := exitOf(t, c.Wait()); got != code {
			t.Errorf("%s, %s: exit code %d, want %d", args, sig, got, code)
		}
	}
	f(syscall.SIGINT, 130, "tail", "--all")
	f(syscall.SIGTERM, 143, "tail", "--all")
	f(syscall.SIGINT, 130, "logs", "--all")
	f(syscall.SIGTERM, 143, "logs", "--all", "-f")
	f(syscall.SIGINT, 130, "sim")
}

func TestCompletion(t *testing.T) {
	f := func(line string, want ...string) {
		t.Helper()
		words := strings.Split(line, " ")
		out, err := command(t, nil, append([]string{"__complete"}, words...)...).Output()
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(strings.Join(want, "\n"), strings.TrimSpace(string(out))); diff != "" {
			t.Errorf("%q:\n%s", line, diff)
		}
	}
	f("", "serve", "gateway", "tail", "logs", "dead-letters", "campaign", "sim", "rotation", "rotation-job", "devices", "import", "user", "token", "audit", "secrets", "version", "completion")
	f("ver", "version")
	f("devices ", "list", "create", "import", "export", "package", "link", "revoke", "restore", "delete")
	f("devices package key1 --format ", "json", "nvs", "qr-terminal")
	f("devices link key1 --for", "--format")
	f("devices import --d", "--dry-run")
	f("user ", "add", "list", "passwd", "roles", "disable", "enable", "remove")
	f("token add --d", "--days", "--data-dir", "--database-url")
	f("rotation ", "status", "trigger", "rotate", "abort", "retry", "history")
	f("rotation history --att", "--attempts")
	f("rotation-job --internal-api-u", "--internal-api-url")
	f("import --pass", "--password-file")
	f("import --da", "--data-dir", "--database-url")
	f("import --host")
	f("--v", "--version")
	f("completion ", "bash", "zsh", "fish")
	f("completion z", "zsh")
	f("completion bash ")
	f("serve --log-f", "--log-format")
	f("serve --log-format ", "auto", "text", "json")
	f("serve --log-format=t", "--log-format=text")
	f("serve --port 1 --allow-i", "--allow-insecure")
	f("serve --allow-insecure --log-l", "--log-level")
	f("serve --data-dir ") // a file name
	f("tail kitchen --col", "--color")
	f("tail --color n", "never")
	f("logs kitchen --lev", "--level")
	f("logs --level w", "warn")
	f("logs -n 5 --f", "--follow")
	f("logs --color=a", "--color=auto", "--color=always")
	f("campaign ", "plan", "start", "list", "show", "pause", "resume", "abort")
	f("campaign show 3 --f", "--follow")
	f("campaign show --devices --state d", "deferred", "done")
	f("campaign start x --wave", "--wave-size", "--wave-pause")
	f("serve --no-such x ")
}

// The scripts are run by the shells themselves, where they are installed.
func TestCompletionScripts(t *testing.T) {
	f := func(shell, program string, want ...string) {
		t.Run(shell, func(t *testing.T) {
			path, err := exec.LookPath(shell)
			if err != nil {
				t.Skip(err)
			}
			c := exec.Command(path, "-c", program)
			c.Env = append(os.Environ(), "PATH="+filepath.Dir(binary)+string(filepath.ListSeparator)+os.Getenv("PATH"))
			var errs bytes.Buffer
			c.Stderr = &errs
			out, err := c.Output()
			if err != nil {
				t.Fatalf("%v\n%s", err, &errs)
			}
			if diff := cmp.Diff(want, strings.Fields(string(out))); diff != "" {
				t.Errorf("%s\n%s", diff, &errs)
			}
		})
	}
	f("bash", `source <(signalbox completion bash)
		try() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=(); _signalbox; echo "${COMPREPLY[@]}"; }
		complete -p signalbox > /dev/null
		try signalbox ser
		try signalbox serve --log-format ''
		try signalbox serve --log-format = t
		try signalbox serve --log-format =
		try signalbox completion ''`,
		"serve", "auto", "text", "json", "text", "auto", "text", "json", "bash", "zsh", "fish")
	f("fish", `signalbox completion fish | source; complete -C 'signalbox completion z'`, "zsh")
	f("zsh", `compdef() { true }; compadd() { shift; print -l -- $@ }; source <(signalbox completion zsh)
		words=(signalbox completion z) CURRENT=3; _signalbox`, "zsh")
}

func TestLogger(t *testing.T) {
	f := func(level, format, want string) {
		t.Helper()
		var b bytes.Buffer
		l := newLogger(&b, level, format)
		l.Debug("quiet")
		l.Warn("loud")
		if !strings.Contains(b.String(), want) || strings.Contains(b.String(), "quiet") != (level == "debug") {
			t.Errorf("%s %s: %q", level, format, &b)
		}
	}
	f("info", "auto", `"msg":"loud"`) // a buffer is no terminal
	f("debug", "json", `"msg":"loud"`)
	f("warn", "text", `msg=loud`)
	if isTerminal(io.Discard) {
		t.Error("io.Discard is a terminal")
	}
}
