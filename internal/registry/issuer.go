package registry

import (
	"context"
	"iter"
)

// Client is the OAuth2 client of a device, as it should be at the identity
// provider.
type Client struct {
	ID          string // client id, as of fleet.ClientID
	Name        string // for people; "" if the device has none
	Description string // for people
	Enabled     bool   // a client that is not gets no tokens
}

// ClientStatus is what the identity provider has.
type ClientStatus struct {
	Exists     bool
	Enabled    bool
	UUID       string // the provider's own name of the client; "" if it has none
	ConsoleURL string // where a person finds it; "" if nowhere
}

// Issuer holds the OAuth2 clients of the devices at an identity provider. Every
// method may be repeated: what it asks for is then there already. Errors are
// fleet.Unavailable when the provider cannot be reached, fleet.External when it
// will not, fleet.NotFound for a client that is not there.
type Issuer interface {
	// Ensure makes the client exist and be as c says, with a secret. created
	// reports whether it was not there before.
	Ensure(ctx context.Context, c Client) (created bool, err error)
	// Secret returns the client's current secret.
	Secret(ctx context.Context, clientID string) (string, error)
	// Delete removes the client; one that is not there is no error. Its tokens
	// are refused from then on.
	Delete(ctx context.Context, clientID string) error
	// Status returns what there is.
	Status(ctx context.Context, clientID string) (ClientStatus, error)
	// Clients returns every client that is a device's by its id, page by page.
	Clients(ctx context.Context) iter.Seq2[Client, error]
}
