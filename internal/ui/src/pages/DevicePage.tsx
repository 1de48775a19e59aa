import { Page } from "../parts/Shell";

export default function DevicePage() {
  return <Page title="DevicePage">{null}</Page>;
}
