/** Says in the bar how the event stream does. */
export function StreamState() {
  return null;
}
