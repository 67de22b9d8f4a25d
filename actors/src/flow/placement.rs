//! Which node a target belongs on: weighted rendezvous hashing with bounded loads.
//!
//! Every node computes the same from the same nodes and targets, so nobody has to decide for the others. A target goes to
//! the node that ranks it highest, by a hash of both, among those that have room for it: a quarter above the average, or what
//! the heaviest target takes. A node that comes takes about its share from all others, and one that goes leaves its share to
//! them; what is between two others hardly moves. (Rendezvous hashing: Thaler and Ravishankar, 1998; bounded loads:
//! Mirrokni, Thorup and Zadimoghaddam, 2016.)

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
};

use super::partition::mix;
use crate::model::{SessionId, TargetId};

/// A node that takes targets.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Candidate {
    /// Its name. It ranks the targets by this, so that a node that comes back finds those that it had.
    pub node: String,
    /// Its session: several may have one name.
    pub session: SessionId,
}

/// How much a target weighs that has so many consumers: one that comes or goes seldom changes it.
pub fn weight(consumers: usize) -> u64 {
    (consumers as u64 + 1).next_power_of_two()
}

/// The session on whose node each target belongs. Of no candidates, nothing is placed.
pub fn place(candidates: &[Candidate], targets: &BTreeMap<TargetId, u64>) -> HashMap<TargetId, SessionId> {
    let ranks = seeds(candidates);
    let total: u64 = targets.values().sum();
    let heaviest = targets.values().copied().max().unwrap_or_default();
    let Some(fair) = total.checked_div(ranks.len() as u64) else { return HashMap::new() };
    let room = (fair + fair / 4 + 1).max(heaviest);
    let mut loads = vec![0; ranks.len()];
    let mut placed = HashMap::with_capacity(targets.len());
    // What is heavy goes first: what is light finds room everywhere.
    let mut heaviest_first: Vec<_> = targets.iter().collect();
    heaviest_first.sort_by_key(|(target, weight)| (Reverse(**weight), **target));
    for (&target, &weight) in heaviest_first {
        let key = |&number: &usize| {
            let has_room = loads[number] + weight <= room;
            // Where there is room nowhere, the least loaded has most of it.
            let load = if has_room { 0 } else { loads[number] };
            (has_room, Reverse(load), score(ranks[number].0, target), ranks[number].1)
        };
        let best = (0..ranks.len()).max_by_key(key).expect("there are candidates");
        loads[best] += weight;
        placed.insert(target, ranks[best].1);
    }
    placed
}

/// What each candidate ranks targets by: its name, and which of those of that name it is.
fn seeds(candidates: &[Candidate]) -> Vec<(u64, SessionId)> {
    let mut candidates: Vec<_> = candidates.iter().collect();
    candidates.sort();
    let mut seeds: Vec<(u64, SessionId)> = Vec::with_capacity(candidates.len());
    let mut namesakes = 0;
    for (number, candidate) in candidates.iter().enumerate() {
        let is_namesake = number > 0 && candidates[number - 1].node == candidate.node;
        namesakes = if is_namesake { namesakes + 1 } else { 0 };
        let of_name = candidate.node.bytes().fold(namesakes, |seed, byte| mix(seed ^ u64::from(byte)));
        seeds.push((mix(of_name), candidate.session));
    }
    seeds
}

fn score(seed: u64, target: TargetId) -> u64 {
    let (high, low) = target.0.as_u64_pair();
    mix(seed ^ mix(high ^ mix(low)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    fn nodes(number: u128) -> Vec<Candidate> {
        let node = |n: u128| Candidate { node: format!("node-{n}"), session: SessionId(Uuid::from_u128(n)) };
        (0..number).map(node).collect()
    }

    fn targets(weights: &[u64]) -> BTreeMap<TargetId, u64> {
        (0u128..).zip(weights).map(|(n, &weight)| (TargetId(Uuid::from_u128(n)), weight)).collect()
    }

    fn loads(placed: &HashMap<TargetId, SessionId>, targets: &BTreeMap<TargetId, u64>) -> HashMap<SessionId, u64> {
        let mut loads = HashMap::new();
        for (target, session) in placed {
            *loads.entry(*session).or_default() += targets[target];
        }
        loads
    }

    #[test]
    fn of_no_nodes_nothing_is_placed_and_of_one_everything() {
        let targets = targets(&[1; 10]);
        assert!(place(&[], &targets).is_empty());
        assert_eq!(place(&nodes(1), &targets).len(), 10);
        assert!(place(&nodes(3), &BTreeMap::new()).is_empty());
    }

    #[test]
    fn nodes_of_one_name_share_like_others() {
        let namesakes = nodes(2).into_iter().map(|node| Candidate { node: "same".into(), ..node });
        let targets = targets(&[1; 100]);
        let loads = loads(&place(&namesakes.collect::<Vec<_>>(), &targets), &targets);
        assert!(loads.len() == 2 && loads.values().all(|&load| load >= 30), "{loads:?}");
    }

    #[test]
    fn a_node_that_comes_takes_its_share_and_what_is_between_others_hardly_moves() {
        let targets = targets(&[1; 1000]);
        let (before, after) = (place(&nodes(4), &targets), place(&nodes(5), &targets));
        let newcomer = SessionId(Uuid::from_u128(4));
        let moved = |to_newcomer: bool| {
            let moved = after.iter().filter(|(target, node)| before[*target] != **node);
            moved.filter(|(_, node)| (**node == newcomer) == to_newcomer).count()
        };
        assert!((150..=260).contains(&moved(true)), "{}", moved(true));
        assert!(moved(false) <= 20, "{}", moved(false));
    }

    #[test]
    fn a_node_that_goes_leaves_its_share_and_what_others_have_hardly_moves() {
        let targets = targets(&[1; 1000]);
        let (before, after) = (place(&nodes(5), &targets), place(&nodes(4), &targets));
        let gone = SessionId(Uuid::from_u128(4));
        let moved = before.iter().filter(|(target, node)| **node != gone && after[*target] != **node).count();
        assert!(moved <= 20, "{moved}");
    }

    proptest! {
        #[test]
        fn nobody_has_more_than_a_quarter_above_the_average_and_what_one_target_weighs(
            number in 1u128..8,
            weights in prop::collection::vec((0u32..8).prop_map(|power| 1u64 << power), 1..200),
        ) {
            let targets = targets(&weights);
            let placed = place(&nodes(number), &targets);
            prop_assert_eq!(placed.len(), targets.len());
            let fair = weights.iter().sum::<u64>() / u64::try_from(number).expect("small");
            let heaviest = weights.iter().max().expect("some");
            let most = loads(&placed, &targets).into_values().max().expect("some");
            prop_assert!(most <= fair + fair / 4 + 1 + heaviest, "{most} of {fair}");
        }
    }
}
