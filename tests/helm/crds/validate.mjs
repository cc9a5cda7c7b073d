// Which of the objects on standard input (a JSON array) are not what their custom resource definitions say?
// Prints one line for each object: what is wrong with it, or nothing. An object of a kind that is not known is wrong.
import { CiliumNetworkPolicy } from "@kubernetes-models/cilium/cilium.io/v2/CiliumNetworkPolicy";
import { HTTPRoute } from "@kubernetes-models/gateway-api/gateway.networking.k8s.io/v1/HTTPRoute";
import { ScaledObject } from "@kubernetes-models/keda/keda.sh/v1alpha1/ScaledObject";
import { PodMonitor } from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/PodMonitor";
import { PrometheusRule } from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/PrometheusRule";
import { ServiceMonitor } from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/ServiceMonitor";

const kinds = {
  "cilium.io/v2/CiliumNetworkPolicy": CiliumNetworkPolicy,
  "gateway.networking.k8s.io/v1/HTTPRoute": HTTPRoute,
  "keda.sh/v1alpha1/ScaledObject": ScaledObject,
  "monitoring.coreos.com/v1/PodMonitor": PodMonitor,
  "monitoring.coreos.com/v1/PrometheusRule": PrometheusRule,
  "monitoring.coreos.com/v1/ServiceMonitor": ServiceMonitor,
};

function fault(object) {
  const kind = kinds[`${object.apiVersion}/${object.kind}`];
  if (kind === undefined) return `${object.apiVersion}/${object.kind} is not known here`;
  try {
    new kind(object).validate();
    return "";
  } catch (error) {
    return error.message.replaceAll("\n", " ");
  }
}

let text = "";
for await (const piece of process.stdin) text += piece;
for (const object of JSON.parse(text)) console.log(fault(object));
