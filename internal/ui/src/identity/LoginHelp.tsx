import { Copy } from "../parts/Copy";
import { useSession } from "./index";

/** How people come to have to log in. */
export function LoginHelp() {
  const { mode } = useSession();
  return (
    <div className="form login-help">
      <p>Nobody has to log in until the first account is made. From that moment on everybody has to.</p>
      {mode?.setup && (
        <p>
          The program printed a <strong>set-up link</strong> at its start, which ends in <code>/setup#…</code>. It makes
          the first admin, and is good once. Or make one by a command, where the program runs:
        </p>
      )}
      {!mode?.setup && <p>Make the first admin by a command, where the program runs:</p>}
      <Copy text="signalbox user add alice --role admin" />
      <p>
        People who have an account at an identity provider can log in with that: see <code>OIDC_ENABLED</code> and{" "}
        <code>OIDC_ISSUER_URL</code> among the settings.
      </p>
    </div>
  );
}
