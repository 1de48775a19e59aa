import { useQuery } from "@tanstack/react-query";
import type { ReactNode } from "react";
import { Link } from "wouter";
import { deviceQuery } from "../api/devices";
import type { Device } from "../api/types";
import { DeviceState } from "./DeviceState";
import { PresenceState } from "./PresenceMark";
import "./device.css";

/** What a device is called: its name, or else its entity id, or else its key. */
export function deviceTitle(d: Pick<Device, "device_name" | "device_entity_id" | "key">): string {
  return d.device_name ?? d.device_entity_id ?? d.key;
}

/**
 * The head of a device's pages: who it is, and the way between its log, its rotation and its settings. It is as high before the device is
 * known as after. `children` stand at its end.
 */
export function DeviceHead({
  id,
  tab,
  children,
}: {
  id: number;
  tab: "log" | "rotation" | "settings";
  children?: ReactNode;
}) {
  const { data: device } = useQuery(deviceQuery(id));
  const name = device && deviceTitle(device);
  return (
    <header className="device-head">
      <div className="device-name">
        <Link href="/" className="crumb">
          Fleet
        </Link>
        <span className="crumb" aria-hidden="true">
          /
        </span>
        <h1 title={name}>{name ?? `Device ${id}`}</h1>
      </div>
      <div className="device-facts">
        {device && (
          <>
            {device.device_entity_id !== null && device.device_entity_id !== name && (
              <code title="Entity id">{device.device_entity_id}</code>
            )}
            <Link href={`/models/${device.device_model_id}`} title={`Model ${device.device_model.name}`}>
              {device.device_model.code}
            </Link>
            <DeviceState active={device.active} rotation={device.rotation_state} revoked={device.revoked} />
            <PresenceState id={id} />
          </>
        )}
      </div>
      {children && <div className="device-end">{children}</div>}
      <nav className="tabs" aria-label="Of this device">
        <Link href={`/devices/${id}`} aria-current={tab === "log" ? "page" : undefined}>
          Log
        </Link>
        <Link href={`/devices/${id}/rotation`} aria-current={tab === "rotation" ? "page" : undefined}>
          Rotation
        </Link>
        <Link href={`/devices/${id}/settings`} aria-current={tab === "settings" ? "page" : undefined}>
          Settings
        </Link>
      </nav>
    </header>
  );
}
