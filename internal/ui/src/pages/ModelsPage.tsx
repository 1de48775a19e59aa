import { Page } from "../parts/Shell";

export default function ModelsPage() {
  return <Page title="ModelsPage">{null}</Page>;
}
