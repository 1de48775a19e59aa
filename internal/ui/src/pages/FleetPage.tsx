import { Page } from "../parts/Shell";

export default function FleetPage() {
  return <Page title="FleetPage">{null}</Page>;
}
