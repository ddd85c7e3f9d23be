//! The texts that are sent.
//!
//! Enters: a seed and the position of a request. Leaves: its JSON body, always the same for the same two. Never: a clock, or anything a
//! person wrote to be read; sentences are drawn word by word from a list of common English words.

use std::str::FromStr;

use bytes::Bytes;
use serde::Serialize;

use crate::plan::{BadPlan, Plan};
use crate::random::Random;

/// Common words, nearly all of them one token for an English vocabulary: `n` words are about `n + 2` tokens.
const WORDS: &str = "the of and to in is was for on are with as at be this have from or had by word but what some we can out other were \
    all there when up use your how said each she which their time will way about many then them write would like so these her long \
    make thing see him two has look more day could go come did number sound no most people my over know water than call first who may \
    down side been now find any new work part take get place made live where after back little only round man year came show every \
    good me give our under name very through just form sentence great think say help low line differ turn cause much mean before move \
    right boy old too same tell does set three want air well also play small end put home read hand port large spell add even land here \
    must big high such follow act why ask men change went light kind off need house picture try us again animal point mother world near \
    build self earth father head stand own page should country found answer school grow study still learn plant cover food sun four \
    between state keep eye never last let thought city tree cross farm hard start might story saw far sea draw left late run while press \
    close night real life few north open seem together next white children begin got walk example ease paper group always music those \
    both mark often letter until mile river car feet care second book carry took science eat room friend began idea fish mountain stop";

/// Word counts of texts: weighted ranges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mix(Vec<Band>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Band {
    least: u32,
    most: u32,
    weight: u32,
}

impl Mix {
    /// Every text has this many words.
    pub fn constant(words: u32) -> Self {
        Self(vec![Band { least: words, most: words, weight: 1 }])
    }

    fn draw(&self, random: &mut Random) -> u32 {
        let mut at = random.below(self.0.iter().map(|it| u64::from(it.weight)).sum());
        for band in &self.0 {
            if at < u64::from(band.weight) {
                return band.least + random.below(u64::from(band.most - band.least) + 1) as u32;
            }
            at -= u64::from(band.weight);
        }
        1
    }
}

impl std::fmt::Display for Mix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let band = |it: &Band| format!("{}-{}:{}", it.least, it.most, it.weight);
        match self.0.as_slice() {
            [only] if only.least == only.most => return write!(f, "{}", only.least),
            _ => {}
        }
        let bands: Vec<_> = self.0.iter().map(band).collect();
        f.write_str(&bands.join(","))
    }
}

impl FromStr for Mix {
    type Err = BadPlan;

    fn from_str(text: &str) -> Result<Self, BadPlan> {
        let band = |part: &str| -> Option<Band> {
            let (range, weight) = part.trim().split_once(':')?;
            let (least, most) = range.split_once('-').unwrap_or((range, range));
            let band = Band { least: least.parse().ok()?, most: most.parse().ok()?, weight: weight.parse().ok()? };
            (band.least >= 1 && band.least <= band.most && band.most <= 100_000 && band.weight >= 1).then_some(band)
        };
        let bands: Option<Vec<_>> = text.split(',').map(band).collect();
        bands.map(Self).ok_or_else(|| BadPlan(format!("`{text}` is not a mix of texts: write e.g. `6-20:70,40-80:20` (words:weight)")))
    }
}

/// Makes the body of any request of a run.
#[derive(Debug)]
pub struct Texts {
    words: Vec<&'static str>,
    mix: Mix,
    batch: u32,
    model: Option<String>,
    seed: u64,
    base64: bool,
    /// Bodies made beforehand, sent in turn; empty: each is made when it is sent.
    ready: Vec<Bytes>,
}

#[derive(Serialize)]
struct Body<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    texts: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    encoding_format: Option<&'a str>,
}

impl Texts {
    /// The texts of a plan.
    pub fn new(plan: &Plan) -> Self {
        let mut texts = Self {
            words: WORDS.split_whitespace().collect(),
            mix: plan.mix.clone(),
            batch: plan.batch,
            model: plan.model.clone(),
            seed: plan.seed,
            base64: plan.base64,
            ready: Vec::new(),
        };
        texts.ready = (0..u64::from(plan.distinct.unwrap_or(0))).map(|index| texts.made(index)).collect();
        texts
    }

    /// The JSON body of request `index`: `text` for a batch of one, else `texts`.
    pub fn body(&self, index: u64) -> Bytes {
        if self.ready.is_empty() { self.made(index) } else { self.ready[(index % self.ready.len() as u64) as usize].clone() }
    }

    fn made(&self, index: u64) -> Bytes {
        let mut random = Random::new(self.seed, index);
        let texts: Vec<String> = (0..self.batch).map(|_| self.text(&mut random)).collect();
        let model = self.model.as_deref();
        let encoding_format = self.base64.then_some("base64");
        let body = match texts.as_slice() {
            [text] => Body { model, text: Some(text), texts: &[], encoding_format },
            texts => Body { model, text: None, texts, encoding_format },
        };
        // Strings and numbers only: nothing in it can fail to serialise.
        serde_json::to_vec(&body).unwrap_or_default().into()
    }

    fn text(&self, random: &mut Random) -> String {
        let words: Vec<_> = (0..self.mix.draw(random)).map(|_| self.words[random.below(self.words.len() as u64) as usize]).collect();
        words.join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(mix: &str, batch: u32, seed: u64) -> Texts {
        Texts {
            words: WORDS.split_whitespace().collect(),
            mix: mix.parse().unwrap(),
            batch,
            model: None,
            seed,
            base64: false,
            ready: Vec::new(),
        }
    }

    #[test]
    fn requests_made_beforehand_are_those_of_their_place_and_come_in_turn() {
        let mut texts = texts("6-20:1", 1, 5);
        let own: Vec<_> = (0..3).map(|index| texts.body(index)).collect();
        texts.ready.clone_from(&own);
        assert_eq!((texts.body(2), texts.body(3), texts.body(7)), (own[2].clone(), own[0].clone(), own[1].clone()));
    }

    #[test]
    fn base64_is_asked_for_by_name() {
        let mut texts = texts("3-3:1", 2, 1);
        assert_eq!(serde_json::from_slice::<serde_json::Value>(&texts.body(0)).unwrap().get("encoding_format"), None);
        texts.base64 = true;
        assert_eq!(serde_json::from_slice::<serde_json::Value>(&texts.body(0)).unwrap()["encoding_format"], "base64");
    }

    #[test]
    fn bodies_depend_on_seed_and_position_alone() {
        let (one, two) = (texts("6-20:1", 1, 5), texts("6-20:1", 1, 5));
        assert_eq!(one.body(3), two.body(3));
        assert_ne!(one.body(3), one.body(4));
        assert_ne!(one.body(3), texts("6-20:1", 1, 6).body(3));
    }

    #[test]
    fn lengths_follow_the_mix() {
        let texts = texts("6-20:70,40-80:20,120-180:10", 1, 1);
        let (mut short, mut middle, mut long) = (0, 0, 0);
        for index in 0..4_000 {
            let body: serde_json::Value = serde_json::from_slice(&texts.body(index)).unwrap();
            match body["text"].as_str().unwrap().split(' ').count() {
                6..=20 => short += 1,
                40..=80 => middle += 1,
                120..=180 => long += 1,
                n => panic!("{n} words"),
            }
        }
        assert!((2_650..2_950).contains(&short) && (680..920).contains(&middle) && (320..480).contains(&long), "{short} {middle} {long}");
    }

    #[test]
    fn a_batch_is_sent_as_texts() {
        let mut texts = texts("18:1", 3, 1);
        texts.model = Some("m@int8".into());
        let body: serde_json::Value = serde_json::from_slice(&texts.body(0)).unwrap();
        assert_eq!(body["texts"].as_array().unwrap().len(), 3);
        assert_eq!((body["model"].as_str(), body.get("text")), (Some("m@int8"), None));
    }

    #[test]
    fn a_mix_reads_back() {
        for text in ["6-20:70,40-80:20", "5-5:1,6-6:2"] {
            assert_eq!(text.parse::<Mix>().unwrap().to_string(), text);
        }
        assert_eq!(Mix::constant(18).to_string(), "18");
        for text in ["", "6-20", "0-5:1", "5-6:0", "9-5:1", "a-b:1"] {
            assert!(text.parse::<Mix>().is_err(), "{text}");
        }
    }
}
