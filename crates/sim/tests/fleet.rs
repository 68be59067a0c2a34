//! The fleet simulator over many seeds.
//!
//! `MUSTER_SIM_SEEDS` says how many (200), `MUSTER_SIM_SEED` plays a single one.

use muster_sim::fleet;

const SEEDS: u64 = 200;
/// The seeds are dealt to this many tests, so that a runner can use its cores.
const HANDS: u64 = 4;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    match text.parse() {
        Ok(number) => Some(number),
        Err(_) => panic!("{name} is not a number: {text:?}"),
    }
}

fn play(hand: u64) {
    let seeds: Vec<u64> = match number("MUSTER_SIM_SEED") {
        Some(seed) => (seed..=seed).filter(|seed| seed % HANDS == hand).collect(),
        None => {
            let seeds = number("MUSTER_SIM_SEEDS").unwrap_or(SEEDS);
            (0..seeds).filter(|seed| seed % HANDS == hand).collect()
        }
    };
    let mut failures = Vec::new();
    let (mut runs, mut exclusive, mut values, mut faults) = (0, 0, 0, 0);
    for seed in &seeds {
        match fleet::run(*seed) {
            Ok(story) => {
                runs += story.runs;
                exclusive += story.exclusive;
                values += story.values;
                faults += story.faults;
            }
            Err(broken) => failures.push(format!(
                "seed {seed}: {broken}\n  again: MUSTER_SIM_SEED={seed} cargo nextest run -p muster-sim --test fleet"
            )),
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    if seeds.len() >= 10 {
        let stories = seeds.len();
        assert!(runs >= 5 * stories, "{runs} runs in {stories} stories");
        assert!(
            exclusive >= 2 * stories,
            "{exclusive} exclusive runs done in {stories} stories"
        );
        assert!(
            values >= 20 * stories,
            "{values} values in {stories} stories"
        );
        assert!(
            faults as usize >= 20 * stories,
            "{faults} faults in {stories} stories"
        );
    }
}

#[test]
fn seeds_of_the_first_hand() {
    play(0);
}

#[test]
fn seeds_of_the_second_hand() {
    play(1);
}

#[test]
fn seeds_of_the_third_hand() {
    play(2);
}

#[test]
fn seeds_of_the_fourth_hand() {
    play(3);
}

#[test]
fn a_seed_tells_the_same_story_twice() {
    for seed in [3, 1234] {
        let (first, second) = (fleet::run(seed), fleet::run(seed));
        let told = |story: &Result<fleet::Story, String>| match story {
            Ok(story) => story.trace.clone(),
            Err(broken) => broken.clone(),
        };
        let (first, second) = (told(&first), told(&second));
        let differs = first.lines().zip(second.lines()).find(|(a, b)| a != b);
        assert_eq!(differs, None, "seed {seed}");
        assert_eq!(first.len(), second.len(), "seed {seed}");
        assert!(
            first.lines().count() > 20,
            "seed {seed} tells nothing: {first}"
        );
    }
    let (one, other) = (fleet::run(1), fleet::run(2));
    assert_ne!(one, other, "another seed is another story");
}
