//! Which name of a command an old agent understands.

use std::collections::BTreeMap;

use super::{Hello, Verb};

/// Which spelling of a verb each kind of old agent understands: an unknown one costs a reconnect, so
/// it is tried once (teeth contract, section 9).
#[derive(Clone, Debug, Default)]
pub struct Spellings {
    known: BTreeMap<(String, String, Verb), Learned>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Learned {
    failed: usize,
    works: Option<&'static str>,
}

impl Spellings {
    /// How many (version, id, verb) are remembered; beyond that the first in order is forgotten.
    const MAX: usize = 4096;

    /// What to call the verb for this agent; `None` when it has no name for it: the agent lists its
    /// methods without any spelling of it, or every spelling was refused.
    pub fn choose(&self, hello: &Hello, verb: Verb) -> Option<&'static str> {
        if hello.methods.is_some() {
            return verb
                .spellings()
                .iter()
                .copied()
                .find(|spelling| hello.lists(spelling));
        }
        // Muster's own methods exist only where they are listed.
        if verb == Verb::Run {
            return None;
        }
        let learned = self
            .known
            .get(&key(hello, verb))
            .copied()
            .unwrap_or_default();
        learned.works.or_else(|| trials(verb).nth(learned.failed))
    }

    /// The agent ended the connection over this spelling.
    pub fn failed(&mut self, hello: &Hello, verb: Verb, spelling: &str) {
        let learned = self.learned(hello, verb);
        learned.works = None;
        if let Some(at) = trials(verb).position(|trial| trial == spelling) {
            learned.failed = learned.failed.max(at.saturating_add(1));
        }
    }

    /// The agent answered this spelling.
    pub fn worked(&mut self, hello: &Hello, verb: Verb, spelling: &str) {
        let found = trials(verb).find(|trial| *trial == spelling);
        self.learned(hello, verb).works = found;
    }

    fn learned(&mut self, hello: &Hello, verb: Verb) -> &mut Learned {
        let key = key(hello, verb);
        if self.known.len() >= Self::MAX && !self.known.contains_key(&key) {
            self.known.pop_first();
        }
        self.known.entry(key).or_default()
    }
}

fn key(hello: &Hello, verb: Verb) -> (String, String, Verb) {
    (hello.version.clone(), hello.id.clone(), verb)
}

/// The order of trials for an agent that lists nothing: the last real code first, then the text,
/// then the bare name.
fn trials(verb: Verb) -> impl Iterator<Item = &'static str> {
    let spellings = verb.spellings();
    let order: &'static [usize] = if spellings.len() == 1 {
        &[0]
    } else {
        &[1, 0, 2]
    };
    order.iter().filter_map(|at| spellings.get(*at).copied())
}
