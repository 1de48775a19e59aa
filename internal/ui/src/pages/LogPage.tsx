import { Page } from "../parts/Shell";

export default function LogPage() {
  return <Page title="LogPage">{null}</Page>;
}
