//! What Argo CD shows of a resource, against what the resource says.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::apps::{self, ZERO_TRUST};
use crate::kstatus;
use crate::lab::Lab;

/// A grant for a Service that is not there.
const WAITING: &str = r#"
apiVersion: ringfence.dev/v1alpha1
kind: ServiceAccess
metadata:
  name: reports
  namespace: shop
  # The last wave: Argo CD does not go on to the next one before everything is healthy.
  annotations: {argocd.argoproj.io/sync-wave: "4"}
spec:
  targetRef: {name: reports}
  clients: [{podSelector: {matchLabels: {app: web}}}]
"#;

/// The Service that comes, which is an alias and has no pods that a policy could select.
const ALIAS: &str = "
---
apiVersion: v1
kind: Service
metadata: {name: reports, namespace: shop}
spec: {type: ExternalName, externalName: reports.example.com}
";

pub(crate) fn waiting_degraded_and_healed(lab: &Lab) -> Result<()> {
    lab.until_all_is_well()?;
    let repository = lab.argo.repository();
    repository.write(&apps::file("reports"), WAITING)?;
    repository.commit("A grant before its Service")?;
    lab.refresh()?;
    lab.until_app_is(ZERO_TRUST, "Progressing")?;
    is_shown_as(lab, "Progressing", "Reconciling", kstatus::Status::InProgress)?;

    repository.write(&apps::file("reports"), &format!("{WAITING}{ALIAS}"))?;
    repository.commit("A Service that no policy can be about")?;
    lab.refresh()?;
    lab.until_app_is(ZERO_TRUST, "Degraded")?;
    is_shown_as(lab, "Degraded", "Stalled", kstatus::Status::Failed)?;

    repository.revert()?;
    lab.refresh()?;
    lab.until_app_is(ZERO_TRUST, "Progressing")?;
    repository.remove(&apps::file("reports"))?;
    repository.commit("No grant")?;
    lab.refresh()?;
    lab.until_all_is_well()?;
    let gone = lab.kubectl(&[
        "-n",
        "shop",
        "get",
        "sva",
        "reports",
        "--ignore-not-found",
        "-o",
        "name",
    ])?;
    ensure!(
        gone.is_empty(),
        "the grant that was taken out of the repository is still there"
    );
    Ok(())
}

/// The grant comes to be shown so, with the message of its condition, and is read so by others.
fn is_shown_as(lab: &Lab, health: &str, condition: &str, status: kstatus::Status) -> Result<()> {
    lab.until(
        &format!("Argo CD shows the grant as {health}, with its own words"),
        || {
            let object = lab.object(&["-n", "shop", "sva", "reports"])?;
            let told =
                message_of(&object, condition).with_context(|| format!("the grant is not {condition}"))?;
            let (shown, message) = health_of(lab, "ServiceAccess", Some("reports"))?;
            let right = (shown.as_str(), &message) == (health, &told);
            Ok((!right).then(|| format!("it shows {shown} ({message}), the grant is {condition} ({told})")))
        },
    )?;
    let object = lab.object(&["-n", "shop", "sva", "reports"])?;
    let read = kstatus::read(&object);
    ensure!(read == status, "kstatus reads {read:?}");
    let waiting = format!("--for=condition={condition}");
    lab.kubectl(&["-n", "shop", "wait", &waiting, "--timeout=5s", "sva/reports"])
        .map(drop)
}

/// The message of a condition that is True.
fn message_of(object: &Value, kind: &str) -> Option<String> {
    let conditions = object["status"]["conditions"].as_array()?;
    let found = conditions
        .iter()
        .find(|condition| condition["type"] == kind && condition["status"] == "True")?;
    Some(found["message"].as_str()?.to_owned())
}

/// The health that Argo CD shows for a resource of the zero-trust application, and the message with it.
pub(crate) fn health_of(lab: &Lab, kind: &str, name: Option<&str>) -> Result<(String, String)> {
    let app = lab.app(ZERO_TRUST)?;
    let resources = app["status"]["resources"]
        .as_array()
        .context("an application without resources")?;
    let found = resources
        .iter()
        .find(|resource| resource["kind"] == kind && name.is_none_or(|name| resource["name"] == name));
    let health = &found.with_context(|| format!("Argo CD shows no {kind}"))?["health"];
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    Ok((text(&health["status"]), text(&health["message"])))
}

/// Everything that users wrote.
pub(crate) fn resources_of(lab: &Lab) -> Result<Vec<Value>> {
    let kinds = "ztn,sva,externalaccesses,zerotrustbaselines,enforcementprobes";
    let list = lab.object(&[kinds, "-A"])?;
    Ok(list["items"]
        .as_array()
        .context("kubectl printed no list")?
        .clone())
}
