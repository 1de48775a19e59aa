package main

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"testing"

	"signalbox/internal/access"
	"signalbox/internal/app"
	"signalbox/internal/config"
)

// inOne runs commands of the program in one directory.
type inOne struct {
	t   *testing.T
	dir string
}

// run runs one, with that on its standard input.
func (d inOne) run(stdin string, args ...string) (code int, stdout, stderr string) {
	d.t.Helper()
	c := command(d.t, nil, args...)
	c.Dir = d.dir
	var out, errs bytes.Buffer
	c.Stdin, c.Stdout, c.Stderr = strings.NewReader(stdin), &out, &errs
	return exitOf(d.t, c.Run()), out.String(), errs.String()
}

// want runs one and compares.
func (d inOne) want(line, stdin string, code int, stdout, stderr string) {
	d.t.Helper()
	got, out, errs := d.run(stdin, strings.Fields(line)...)
	if got != code {
		d.t.Errorf("%q: exit code %d, want %d\n%s%s", line, got, code, out, errs)
	}
	for _, x := range []struct{ name, text, pattern string }{{"stdout", out, stdout}, {"stderr", errs, stderr}} {
		if x.pattern == "" && x.text != "" || !regexp.MustCompile("(?s)"+x.pattern).MatchString(x.text) {
			d.t.Errorf("%q: %s is %q, want %q", line, x.name, x.text, x.pattern)
		}
	}
}

func TestUsers(t *testing.T) {
	const password = "a good long password\n"
	d := inOne{t, t.TempDir()}
	d.want("user add ann --role admin --password-stdin", "short\n", 2, "", `^signalbox: The password must have at least 10`)
	d.want("user add ann --role admin --password-stdin", strings.Repeat("x", 5000), 2, "", `at most 1024 bytes`)
	d.want("user add ann --role admin --tag lab --password-stdin", password, 2, "", `first person must be an admin`)
	d.want("user add Ann --role admin --name Aenn --password-stdin", password, 0, `^ann may log in as admin\.\nIt is the first person: .* everybody has to log in`, "")
	d.want("user add bob --model sensor --model relay --password-stdin", password, 0, `^bob may log in as viewer\.\n$`, "")
	d.want("user add bob --password-stdin", password, 1, "", `^signalbox: Account for bob already exists`)
	d.want("user add b&b --password-stdin", password, 2, "", `^signalbox: The user name must be`)
	d.want("user add eve --role root --password-stdin", password, 2, "", `^signalbox: There is no role "root": use pipeline, viewer, editor, admin`)
	d.want("user list", "", 0, `^USER +NAME +ROLES +LIMIT.*\nann +Aenn +admin +- +enabled +never +0 +0\nbob +viewer +model:relay,model:sensor +enabled`, "")

	d.want("user roles bob editor pipeline --unlimited", "", 0, `^bob is editor, pipeline now, limited to: -\n$`, "")
	d.want("user roles bob --tag lab", "", 0, `^bob is editor, pipeline now, limited to: tag:lab\n$`, "")
	d.want("user roles nobody viewer", "", 1, "", `^signalbox: There is nobody with the user name "nobody"`)
	d.want("user roles ann viewer", "", 1, "", `last admin`)
	d.want("user disable ann", "", 1, "", `last admin`)
	d.want("user remove ann", "", 1, "", `last admin`)
	d.want("user passwd bob --password-stdin", "another good password\r\n", 0, `^bob has a new password`, "")

	// The secret is all that is on the standard output.
	_, secret, errs := d.run("", "token", "add", "--user", "bob", "--name", "a script", "--role", "editor", "--days", "1")
	if !regexp.MustCompile(`^sbt_[\w-]{43}\n$`).MatchString(secret) || !strings.Contains(errs, "Token 1 is good until") {
		t.Errorf("got %q, %q", secret, errs)
	}
	d.want("token add --user bob --name x --role admin", "", 1, "", `^signalbox: A token cannot have the role admin`)
	d.want("token list", "", 0, `^ID +USER.*\n1 +bob +a script +sbt_\S{4} +editor +- .* never\n$`, "")
	d.want("token list --user ann", "", 0, `^ID[^\n]*\n$`, "")
	_, listed, _ := d.run("", "token", "list", "--json", "--user", "BOB")
	var token tokenRow
	if err := json.Unmarshal([]byte(listed), &token); err != nil || token.Name != "a script" || strings.Contains(listed, strings.TrimSpace(secret)) {
		t.Errorf("got %q, %v", listed, err)
	}

	// What was done so holds for a server on the database.
	settings, err := config.Load(config.Sources{Flags: map[string]string{"DATA_DIR": d.dir + "/data"}, ReadFile: os.ReadFile})
	if err != nil {
		t.Fatal(err)
	}
	service, closer, err := app.OpenAccess(t.Context(), settings.Config, false, newLogger(t.Output(), "info", "text"))
	if err != nil {
		t.Fatal(err)
	}
	defer closer.Close()
	if p, err := service.APIToken(strings.TrimSpace(secret)); err != nil || p.Subject != "local:2" || !p.Has(access.RoleEditor) || p.Has(access.RoleAdmin) {
		t.Errorf("got %+v, %v", p, err)
	}
	for name, password := range map[string]string{"ann": "a good long password", "bob": "another good password"} {
		if _, _, err := service.SignIn(t.Context(), name, password, access.Client{}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}

	d.want("token revoke 1", "", 0, `^Token 1 is revoked\.\n$`, "")
	d.want("token revoke 1", "", 1, "", `^signalbox: Token 1 was not found`)
	d.want("user disable bob", "", 0, `^bob cannot log in any more\.`, "")
	d.want("token add --user bob --name x", "", 1, "", `^signalbox: Cannot create token because the account is disabled`)
	_, all, _ := d.run("", "user", "list", "--json")
	var bob personRow
	if lines := strings.Split(strings.TrimSpace(all), "\n"); len(lines) != 2 {
		t.Errorf("got %q", all)
	} else if err := json.Unmarshal([]byte(lines[1]), &bob); err != nil || !bob.Disabled || *bob.Username != "bob" || bob.Limit.Tags[0] != "lab" {
		t.Errorf("got %q, %v", lines[1], err)
	}
	d.want("user enable bob", "", 0, `^bob can log in again\.`, "")
	d.want("user remove bob", "", 0, `^bob is removed\.`, "")

	// Everything is in the audit, and nothing of it is a secret.
	d.want("audit -n 1", "", 0, `^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  command line  person\.delete  person/2 "bob"\n$`, "")
	d.want("audit --action token.* -n 0 --since 1h", "", 0, `token\.create .* -> invalid_operation\n.*token\.revoke  token/1 "a script"\n.*-> forbidden\n.*token\.create  token/1 "a script"\n$`, "")
	d.want("audit --until 1h", "", 0, "", "")
	d.want("audit --actor ann", "", 0, "", "")
	code, table, _ := d.run("", "audit", "--csv", "-n", "0")
	rows, err := csv.NewReader(strings.NewReader(table)).ReadAll()
	if code != 0 || err != nil || len(rows) < 15 || strings.Join(rows[0], ",") != "id,at,actor,name,kind,action,target,label,outcome,address,detail" {
		t.Errorf("got %q, %v", table, err)
	}
	for _, secret := range []string{strings.TrimSpace(secret), "good long", "another good"} {
		if strings.Contains(table, secret) {
			t.Errorf("the audit has %q", secret)
		}
	}
	_, lines, _ := d.run("", "audit", "--json", "--target", "person/2", "-n", "1")
	var event map[string]any
	if err := json.Unmarshal([]byte(lines), &event); err != nil || event["action"] != "person.delete" || event["outcome"] != "ok" || event["detail"] != nil {
		t.Errorf("got %q, %v", lines, err)
	}
}

func TestCell(t *testing.T) {
	f := func(s, want string) {
		t.Helper()
		if got := cell(s); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	f("", "")
	f("ann", "ann")
	f("a=b", "a=b")
	f(`=cmd|' /C calc'!A0`, `'=cmd|' /C calc'!A0`)
	f("-1", "'-1")
	f("@x", "'@x")
}

// Each client sends the token, shows it nowhere, and says what to do about one
// that is not taken.
func TestToken(t *testing.T) {
	const secret = "sbt_0123456789"
	f := func(status int, answer, token, want string, args ...string) {
		t.Helper()
		var asked string
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			asked = r.Header.Get("Authorization")
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(status)
			_, _ = w.Write([]byte(answer))
		}))
		defer server.Close()
		c := command(t, []string{"SIGNALBOX_TOKEN=" + token, "SIGNALBOX_SERVER=" + server.URL}, args...)
		out, err := c.CombinedOutput()
		if code := exitOf(t, err); code != 1 {
			t.Errorf("%s: exit code %d\n%s", args, code, out)
		}
		header := ""
		if token != "" {
			header = "Bearer " + secret
		}
		if asked != header {
			t.Errorf("%s: sent %q", args, asked)
		}
		if !regexp.MustCompile("(?s)"+want).Match(out) || bytes.Contains(out, []byte(secret)) {
			t.Errorf("%s: got %q, want %q", args, out, want)
		}
	}
	for _, args := range [][]string{{"tail", "--all"}, {"logs", "--all"}, {"dead-letters"}, {"dead-letters", "retry"}, {"dead-letters", "purge"}, {"sim", "--devices", "1"}} {
		f(401, `{"error":"No valid token provided"}`, "", `The server wants an API token: .*SIGNALBOX_TOKEN`, args...)
		f(401, `{"error":"Token has expired"}`, secret+"\n", `does not take the token any more: .*SIGNALBOX_TOKEN`, args...)
		f(403, `{"error":"Insufficient permissions"}`, secret, `may not do that: it needs another role`, args...)
	}
}
