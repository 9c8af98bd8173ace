//! What a request asks of partitions, each partition once. Kafka keeps many requests' partitions in a map: one that is named
//! twice is asked about as it is named last, and a topic without partitions is not answered.

use std::collections::HashMap;
use std::hash::Hash;

/// Partitions under their topics, in the order in which each is named first.
pub fn each_once<T: Clone + Eq + Hash, V>(
    asked: impl IntoIterator<Item = (T, i32, V)>,
) -> Vec<(T, Vec<(i32, V)>)> {
    let mut all: Vec<(T, Vec<(i32, V)>)> = Vec::new();
    let mut topics: HashMap<T, usize> = HashMap::new();
    let mut places: HashMap<(usize, i32), usize> = HashMap::new();
    for (topic, partition, what) in asked {
        let at = *topics.entry(topic).or_insert_with_key(|topic| {
            all.push((topic.clone(), Vec::new()));
            all.len() - 1
        });
        let Some((_, partitions)) = all.get_mut(at) else { continue };
        match places.get(&(at, partition)).and_then(|place| partitions.get_mut(*place)) {
            Some(earlier) => *earlier = (partition, what),
            None => {
                places.insert((at, partition), partitions.len());
                partitions.push((partition, what));
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_named_last_stands_where_it_is_named_first() {
        let asked = [("b", 1, 'p'), ("a", 1, 'q'), ("b", 0, 'r'), ("b", 1, 's'), ("a", 1, 't')];
        assert_eq!(each_once(asked), [("b", vec![(1, 's'), (0, 'r')]), ("a", vec![(1, 't')])]);
        assert!(each_once(Vec::<(&str, i32, ())>::new()).is_empty());
    }
}
