//! What serves in place of what cannot. Enters: the digest of an artifact that failed. Leaves: loads of what served before. Never: a
//! variant under a name that is not its own.

use akidb_domain::snapshot::VariantRef;
use akidb_domain::vocabulary::ExecutionProvider;

use super::{Owner, job};
use crate::models::activate::Job;
use crate::models::last_good::Good;
use crate::models::plan::{Choice, PlannedVariant};

impl Owner {
    /// Whether this process has a use without the artifact: another planned one, or one that served before.
    pub(super) fn something_else_serves(&self, digest: &str) -> bool {
        let other = |it: &Good| it.artifact.digest != digest;
        self.wanted().iter().filter_map(|(_, it)| it.choice.as_ref().ok()).any(|it| it.artifact.digest != digest)
            || self.plan.models.iter().any(|(name, model)| {
                self.last_good.default_of(name).is_some_and(|(_, it)| other(it))
                    || model.variants.iter().any(|it| self.last_good.get(name, &it.at).is_some_and(other))
            })
    }

    /// Brings up what could serve instead: another artifact of the variant, or what served before.
    pub(super) fn stand_in(&mut self, failed: &str) {
        let mut jobs = self.spares(failed);
        let machine = &self.parts.machine;
        for (name, model) in &mut self.plan.models {
            let bereft = |it: &&PlannedVariant| it.choice.as_ref().is_ok_and(|it| it.artifact.digest == failed);
            let mut default_is_bereft = false;
            for variant in model.variants.iter().filter(bereft) {
                default_is_bereft |= variant.at == model.default;
                let key = (name.clone(), variant.at.clone());
                let good = self.last_good.get(name, &variant.at).filter(|it| it.artifact.digest != failed);
                let Some(good) = good.filter(|_| !self.previous.contains_key(&key)).cloned() else { continue };
                // What served before on another machine may not serve here.
                let Ok(provider) = machine.place(good.precision, &good.artifact.target) else { continue };
                default_is_bereft &= variant.at != model.default;
                let job = Job {
                    artifact: good.artifact.clone(),
                    card: model.card.clone(),
                    variant: variant.at.variant.clone(),
                    precision: good.precision,
                    provider,
                };
                jobs.push(job);
                self.previous.insert(key, good);
            }
            // The default is a variant that never served here: the one that was the default before.
            let before = self.last_good.default_of(name).filter(|(at, it)| **at != model.default && it.artifact.digest != failed);
            if let Some((at, good)) = before.filter(|_| default_is_bereft)
                && let Ok(provider) = machine.place(good.precision, &good.artifact.target)
            {
                let planned = stood_in(at, good, provider);
                jobs.extend(job(model, &planned));
                if let Some(known) = model.variants.iter_mut().find(|it| it.at == *at) {
                    known.hold = true;
                } else {
                    model.variants.push(planned);
                }
            }
        }
        for job in &jobs {
            self.ensure(job);
        }
    }

    /// The next best artifact of each variant whose own failed and that has nothing that served before: an engine's graph, say.
    fn spares(&mut self, failed: &str) -> Vec<Job> {
        let why = self.slots.get(failed).map(|it| it.reason.clone()).unwrap_or_default();
        let mut jobs = Vec::new();
        for (name, model) in &mut self.plan.models {
            let card = &model.card;
            for variant in &mut model.variants {
                let key = (name.clone(), variant.at.clone());
                let bereft = variant.choice.as_ref().is_ok_and(|it| it.artifact.digest == failed);
                if !bereft || variant.spare.is_empty() || self.previous.contains_key(&key) {
                    continue;
                }
                let spare = variant.spare.remove(0);
                let artifact = spare.artifact.digest.get(..12).unwrap_or_default();
                let fallback = format!("{why}; artifact {artifact} runs on `{}` in its place", spare.provider);
                let (precision, provider) = (spare.precision, spare.provider);
                jobs.push(Job {
                    artifact: spare.artifact.clone(),
                    card: card.clone(),
                    variant: variant.at.variant.clone(),
                    precision,
                    provider,
                });
                variant.choice = Ok(Choice { fallback, ..spare });
            }
        }
        jobs
    }
}

fn stood_in(at: &VariantRef, good: &Good, provider: ExecutionProvider) -> PlannedVariant {
    let choice = Choice { artifact: good.artifact.clone(), precision: good.precision, provider, fallback: String::new() };
    PlannedVariant { at: at.clone(), precision: good.precision, hold: true, pinned: false, choice: Ok(choice), spare: Vec::new() }
}
