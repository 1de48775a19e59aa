import { explain } from "../parts/explain";
import type { Check } from "./useCheck";

/** In words, for below the editor; `against` is what the text is checked against. */
export function CheckState({ check, against }: { check: Check; against: string }) {
  switch (check.state) {
    case "checking":
      return <span>Checking …</span>;
    case "valid":
      return <span className="good">✓ Valid {against}</span>;
    case "failed":
      return <span>It could not be checked: {explain(check.error, "model")} Saving checks it again.</span>;
    default:
      return null;
  }
}
