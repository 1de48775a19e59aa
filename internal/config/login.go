package config

import (
	"errors"
	"net"
	"strconv"
	"strings"
)

// Auto is a yes or no that is worked out from other settings unless it is given.
// As text it is true, false, or auto.
type Auto string

// UnmarshalText reads a truth value; nothing is auto.
func (a *Auto) UnmarshalText(text []byte) error {
	if len(text) == 0 || strings.EqualFold(string(text), "auto") {
		*a = ""
		return nil
	}
	yes, err := strconv.ParseBool(string(text))
	if err != nil {
		return errors.New("not a truth value")
	}
	*a = Auto(strconv.FormatBool(yes))
	return nil
}

// String returns true, false or auto.
func (a Auto) String() string {
	if a == "" {
		return "auto"
	}
	return string(a)
}

// Or returns what was given, or else the default.
func (a Auto) Or(otherwise bool) bool {
	if a == "" {
		return otherwise
	}
	return a == "true"
}

// CookieSecure reports whether cookies may travel encrypted only.
func (c *Config) CookieSecure() bool {
	return c.OIDCCookieSecure.Or(strings.HasPrefix(c.BaseURL, "https://"))
}

// reservedCookies are names that cookies of Signalbox have in any case.
var reservedCookies = [...]string{"id_token", "login_state"}

// login checks what has to do with people who log in.
func (c *checker) login() {
	if c.OIDCEnabled {
		const want = "a value, as OIDC_ENABLED is true"
		for _, needed := range []struct{ name, text string }{
			{"OIDC_ISSUER_URL", c.OIDCIssuerURL}, {"OIDC_CLIENT_ID", c.OIDCClientID}, {"OIDC_CLIENT_SECRET", c.OIDCClientSecret.Reveal()},
		} {
			if needed.text == "" {
				c.wrong(needed.name, want)
			}
		}
	}
	c.webURL("OIDC_ISSUER_URL", &c.OIDCIssuerURL)
	names := map[string]string{}
	for _, reserved := range reservedCookies {
		names[reserved] = reserved
	}
	for _, cookie := range []struct{ setting, name string }{{"OIDC_COOKIE_NAME", c.OIDCCookieName}, {"OIDC_REFRESH_COOKIE_NAME", c.OIDCRefreshCookieName}} {
		switch {
		case !isToken(cookie.name):
			c.wrong(cookie.setting, "a name of letters, digits, - and _, or other characters of RFC 9110, section 5.6.2")
		case names[cookie.name] != "":
			c.wrong(cookie.setting, "another name than "+names[cookie.name])
		}
		names[cookie.name] = cookie.setting
	}
	if base := c.BaseURL; !c.OIDCCookieSecure.Or(strings.HasPrefix(base, "https://") || base == "" && c.TLSCert != "") {
		const want = ", as browsers take such cookies over https only: BASEURL must start with https://, or OIDC_COOKIE_SECURE be true"
		if c.OIDCCookieSameSite == "None" {
			c.wrong("OIDC_COOKIE_SAMESITE", "Lax or Strict"+want)
		}
		if c.OIDCCookiePartitioned {
			c.wrong("OIDC_COOKIE_PARTITIONED", "false"+want)
		}
	}
	if c.SessionIdle > c.SessionMax && !c.bad["SESSION_MAX"] {
		c.wrong("SESSION_IDLE", "a time of at most SESSION_MAX")
	}
}

// isToken reports whether s may be the name of a cookie (RFC 6265, section
// 4.1.1): a token of RFC 9110, section 5.6.2.
func isToken(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("!#$%&'*+-.^_`|~", r))
	})
}

// Exposed returns, as mistakes, the listeners that other machines can reach and
// that serve people. They are mistakes while nobody has to log in, which only
// the database can tell, and unless ALLOW_INSECURE says otherwise.
func (c *Config) Exposed() []error {
	const want = "a loopback address such as 127.0.0.1, because there is no authentication: nobody has an account, and OIDC_ENABLED is false; " +
		"make an account first (signalbox user add), or ALLOW_INSECURE=true starts all the same"
	var found []error
	if !loopback(c.Host) {
		found = append(found, &Mistake{Setting: "HOST", Value: c.Host, Want: want})
	}
	if host, _, err := net.SplitHostPort(c.InternalListen); err == nil && !loopback(host) {
		found = append(found, &Mistake{Setting: "INTERNAL_LISTEN", Value: c.InternalListen, Want: want})
	}
	return found
}
