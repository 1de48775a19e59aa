import { Link } from "wouter";
import type { Role } from "../api/types";
import { Page } from "../parts/Shell";
import { useSession } from "./index";
import { limitWords, mainRole } from "./roles";

/** Stands in the place of a page for which somebody's role is not enough. */
export function NotAllowed({ title, needs: role }: { title: string; needs: Role }) {
  const { self } = useSession();
  const own = mainRole(self?.roles ?? []);
  const limit = self?.limit ?? null;
  const limited = limit !== null;
  return (
    <Page title={title}>
      <div className="empty">
        <h1>This page is for {role}s</h1>
        <p>
          {own === null
            ? "You have no role here."
            : `Your role is ${own}${limited ? `, for ${limitWords(limit)}` : ""}.`}{" "}
          Ask an admin for the role of {role}
          {limited ? " without a limit" : ""} if you need it.
        </p>
        <Link href="/" className="button primary">
          To the fleet
        </Link>
      </div>
    </Page>
  );
}
