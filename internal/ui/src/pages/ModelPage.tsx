import { Page } from "../parts/Shell";

export default function ModelPage() {
  return <Page title="ModelPage">{null}</Page>;
}
