export function DownloadDialog(_: { devices: unknown; filter: unknown; onClose: () => void }) {
  return null;
}
