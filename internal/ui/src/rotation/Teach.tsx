/** What rotation is, for somebody who sees it for the first time. */
export function Teach() {
  return (
    <ol className="rot-teach">
      <li>
        <strong>Made beside the old one.</strong> A device gets a new secret while its old one still works.
      </li>
      <li>
        <strong>Told and fetched.</strong> It is told over MQTT, and fetches the new secret with the old one. It may ask
        as often as it likes.
      </li>
      <li>
        <strong>Used.</strong> It comes back with the new secret: that proves that it has it.
      </li>
      <li>
        <strong>Withdrawn.</strong> Only then is the old one taken back. A device that stays silent keeps its old
        secret, and shows up here.
      </li>
    </ol>
  );
}
