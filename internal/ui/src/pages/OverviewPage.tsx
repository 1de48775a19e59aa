import { Page } from "../parts/Shell";

export default function OverviewPage() {
  return <Page title="OverviewPage">{null}</Page>;
}
