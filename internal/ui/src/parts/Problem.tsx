import { ApiError } from "../api/client";

/** What went wrong, and what can be done about it. */
export function Problem({ error, retry }: { error: unknown; retry?: () => void }) {
  const e = error instanceof ApiError ? error : null;
  return (
    <div className="notice error" role="alert">
      <div className="grow">
        {e?.status === 403 && (
          <p>
            <strong>You may not see this.</strong> Ask an admin for the role that it needs.
          </p>
        )}
        <p>{e ? e.message : "The page failed at this. Reload it; if that does not help, the console says more."}</p>
        {e?.correlationId && (
          <p className="hint">
            The server's log has more under <code>{e.correlationId}</code>.
          </p>
        )}
      </div>
      {retry && (
        <button type="button" className="button" onClick={retry}>
          Try again
        </button>
      )}
    </div>
  );
}
