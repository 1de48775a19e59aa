import { useQuery } from "@tanstack/react-query";
import { Link } from "wouter";
import { modelsQuery } from "../api/devices";
import { useMay, useSession } from "../identity/index";
import { Copy } from "../parts/Copy";
import { Problem } from "../parts/Problem";
import { Page } from "../parts/Shell";
import "../device/settings.css";

/** The device models. */
export default function ModelsPage() {
  const models = useQuery(modelsQuery);
  // Who has to do with some devices only makes no models.
  const { self } = useSession();
  const limited = self?.limit != null;
  const token = self !== null && self.mode !== "off";
  const makes = useMay("editor") && !limited;
  if (models.data?.length === 0) {
    const body = JSON.stringify({ code: "sensor", name: "Sensor" });
    return (
      <Page title="Models">
        <div className="empty">
          <h1>No models yet</h1>
          <p>
            A device model is a kind of device. Its devices share its schema, a JSON Schema that their configurations
            must follow; it may have none.
          </p>
          {makes ? (
            <>
              <Link href="/models/new" className="button primary">
                New model
              </Link>
              <p>
                Or by a command
                {token && (
                  <>
                    , with an API token of <Link href="/account">your account</Link> in <code>TOKEN</code>
                  </>
                )}
                :
              </p>
              <Copy
                text={`curl ${location.origin}/api/device-models${token ? ' -H "Authorization: Bearer $TOKEN"' : ""} -H 'Content-Type: application/json' -d '${body}'`}
              />
            </>
          ) : (
            <p>They are shown here as soon as an editor has made one that you may see.</p>
          )}
        </div>
      </Page>
    );
  }
  return (
    <Page title="Models">
      <div className="page-head">
        <h1 className="grow">Models</h1>
        {makes && (
          <Link href="/models/new" className="button">
            New model
          </Link>
        )}
      </div>
      {models.error && !models.data ? (
        <Problem error={models.error} retry={() => void models.refetch()} />
      ) : (
        <div className="card models-card">
          <table className="models" aria-busy={models.isPending}>
            <thead>
              <tr>
                <th scope="col">Code</th>
                <th scope="col">Name</th>
                <th scope="col" className="number">
                  Devices
                </th>
                <th scope="col">Schema</th>
                <th scope="col" className="spare">
                  Firmware
                </th>
              </tr>
            </thead>
            <tbody>
              {models.data?.map((m) => (
                <tr key={m.id}>
                  <td>
                    <Link href={`/models/${m.id}`}>{m.code}</Link>
                  </td>
                  <td>{m.name}</td>
                  <td className="number">
                    {m.device_count === 0 ? (
                      "0"
                    ) : (
                      <Link href={`/?model=${m.id}`}>
                        {m.device_count.toLocaleString("en")}
                        <span className="visually-hidden"> devices of {m.code}</span>
                      </Link>
                    )}
                  </td>
                  <td>
                    {m.has_config_schema ? (
                      <span className="badge ok">Schema</span>
                    ) : (
                      <span className="hint">none</span>
                    )}
                  </td>
                  <td className="spare">{m.firmware_version ?? <span className="hint">none</span>}</td>
                </tr>
              )) ??
                ["first", "second", "third"].map((row) => (
                  <tr key={row}>
                    <td colSpan={5}>
                      <div className="skeleton">&nbsp;</div>
                    </td>
                  </tr>
                ))}
            </tbody>
          </table>
        </div>
      )}
    </Page>
  );
}
