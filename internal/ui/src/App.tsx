import { QueryClient, QueryClientProvider } from "@tanstack/react-query";
import { lazy, Suspense } from "react";
import { Route, Router, Switch } from "wouter";
import { ApiError } from "./api/client";
import { Gate } from "./identity/Gate";
import { NotFound } from "./pages/NotFound";
import { Shell } from "./parts/Shell";
import { Toasts } from "./parts/toast";
import { aroundNavigation, UnsavedQuestion } from "./parts/unsaved";

const FleetPage = lazy(() => import("./pages/FleetPage"));
const DevicePage = lazy(() => import("./pages/DevicePage"));
const LogPage = lazy(() => import("./pages/LogPage"));
const ModelsPage = lazy(() => import("./pages/ModelsPage"));
const ModelPage = lazy(() => import("./pages/ModelPage"));
const AccountPage = lazy(() => import("./pages/AccountPage"));
const PeoplePage = lazy(() => import("./pages/PeoplePage"));
const AuditPage = lazy(() => import("./pages/AuditPage"));
const SetupPage = lazy(() => import("./pages/SetupPage"));
const LoginPage = lazy(() => import("./pages/LoginPage"));
const LoginDonePage = lazy(async () => ({ default: (await import("./pages/LoginPage")).LoginDonePage }));
const LoggedOutPage = lazy(async () => ({ default: (await import("./pages/LoginPage")).LoggedOutPage }));
const RotationPage = lazy(() => import("./pages/RotationPage"));
const NewCampaignPage = lazy(() => import("./pages/NewCampaignPage"));
const CampaignPage = lazy(() => import("./pages/CampaignPage"));
const StoryPage = lazy(() => import("./pages/StoryPage"));
const OverviewPage = lazy(() => import("./pages/OverviewPage"));

const queries = new QueryClient({
  defaultOptions: {
    queries: {
      staleTime: 10_000,
      retry: (failures, e) => e instanceof ApiError && e.temporary && failures < 3,
    },
  },
});

/**
 * The page. Its addresses:
 *
 *   /                     the fleet
 *   /logs?devices=1,2     what devices say: merged, or side by side; without devices, all of them
 *   /devices/new          a new device; ?from=7 is made like that one, ?model=3 is of that model
 *   /devices/7            one device: its log; ?at=<cursor> is one line
 *   /devices/7/settings   its facts and its configuration
 *   /devices/7/rotation   where the rotation of its secret stands, and its attempts; ?attempt=3 is one of them
 *   /models, /models/3    device models; /models/new a new one, ?from=3 made like that one
 *   /rotation             the rotation of all secrets; ?group=critical and ?q=… are a part of the devices
 *   /rotation/campaigns/3 a campaign; /rotation/campaigns/new a new one, ?devices=1,2, ?models=3 or ?tags=lab of those
 *   /overview             the server itself
 *   /account              who somebody is here: sessions, password, API tokens
 *   /people, /audit       for admins: who may come here, and who did what; ?actor=… and so on is its filter
 *
 * and, for those who are not logged in:
 *
 *   /login?redirect=…     a login, which leads there; /login/done is where one in a tab of its own ends
 *   /setup#secret         the making of the first admin
 *   /logged-out           where a logout ends
 */
export function App() {
  return (
    <QueryClientProvider client={queries}>
      <Router aroundNav={aroundNavigation}>
        <Toasts>
          <Suspense fallback={null}>
            <Switch>
              <Route path="/login" component={LoginPage} />
              <Route path="/login/done" component={LoginDonePage} />
              <Route path="/logged-out" component={LoggedOutPage} />
              <Route path="/setup" component={SetupPage} />
              <Route>
                <Gate>
                  <Shell>
                    <Suspense fallback={null}>
                      <Pages />
                    </Suspense>
                  </Shell>
                </Gate>
              </Route>
            </Switch>
          </Suspense>
          <UnsavedQuestion />
        </Toasts>
      </Router>
    </QueryClientProvider>
  );
}

function Pages() {
  return (
    <Switch>
      <Route path="/" component={FleetPage} />
      <Route path="/logs" component={LogPage} />
      <Route path="/devices/new" component={DevicePage} />
      <Route path="/devices/:id" component={LogPage} />
      <Route path="/devices/:id/settings" component={DevicePage} />
      <Route path="/devices/:id/rotation" component={StoryPage} />
      <Route path="/models" component={ModelsPage} />
      <Route path="/models/new" component={ModelPage} />
      <Route path="/models/:id" component={ModelPage} />
      <Route path="/rotation" component={RotationPage} />
      <Route path="/rotation/campaigns/new" component={NewCampaignPage} />
      <Route path="/rotation/campaigns/:id" component={CampaignPage} />
      <Route path="/overview" component={OverviewPage} />
      <Route path="/account" component={AccountPage} />
      <Route path="/people" component={PeoplePage} />
      <Route path="/audit" component={AuditPage} />
      <Route component={NotFound} />
    </Switch>
  );
}
