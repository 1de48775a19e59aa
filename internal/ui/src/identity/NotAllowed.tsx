import { Link } from "wouter";
import type { Role } from "../api/types";
import { Page } from "../parts/Shell";
import { useSession } from "./index";
import { mainRole } from "./roles";

/** Stands in the place of a page for which somebody's role is not enough. */
export function NotAllowed({ title, needs: role }: { title: string; needs: Role }) {
  const { self } = useSession();
  const own = mainRole(self?.roles ?? []);
  return (
    <Page title={title}>
      <div className="empty">
        <h1>This page is for {role}s</h1>
        <p>
          {own === null ? "You have no role here." : `Your role is ${own}.`} Ask an admin for the role of {role} if you
          need it.
        </p>
        <Link href="/" className="button primary">
          To the fleet
        </Link>
      </div>
    </Page>
  );
}
