import { Link } from "wouter";
import { Page } from "../parts/Shell";

/** For addresses that are none. */
export function NotFound() {
  return (
    <Page title="Not found">
      <div className="empty">
        <h1>There is no such page</h1>
        <p>The address may be old, or mistyped.</p>
        <Link href="/" className="button primary">
          To the fleet
        </Link>
      </div>
    </Page>
  );
}
