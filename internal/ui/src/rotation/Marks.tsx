import { useServerNow } from "./live";
import { mood, type Standing, sentence } from "./words";

/** A mark for how a rotation does, told apart by its form as well as by its colour. */
export function Mark({ standing }: { standing: Standing }) {
  return <span className="rot-mark" data-mood={mood(standing)} aria-hidden="true" />;
}

/** Where a device's rotation stands, in one sentence that counts the seconds. */
export function Sentence({ standing }: { standing: Standing }) {
  return <>{useServerNow((now) => sentence(standing, now))}</>;
}
