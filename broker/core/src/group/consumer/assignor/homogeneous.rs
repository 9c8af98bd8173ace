//! `uniform`, where all members are subscribed to the same topics: nobody has two partitions more than anybody else, and
//! otherwise all keep what they have.

use super::super::super::record::Partitions;
use super::{Problem, partitions_of};

pub(super) fn assign(problem: &Problem<'_>) -> Vec<Partitions> {
    let members = problem.subscribers.len();
    if members == 0 {
        return Vec::new();
    }
    let all = problem
        .topics
        .iter()
        .flat_map(|(topic, count)| (0..*count).map(move |partition| (*topic, partition)));
    let total = all.clone().count();
    let (mut shares, taken) = problem.kept();
    let mut free: Vec<_> = all.filter(|partition| !taken.contains(partition)).collect();
    let (least, mut extra) = (total / members, total % members);
    let mut quotas = vec![least; members];
    // Those who have one more already keep it, as long as there are more to have.
    for (quota, _) in quotas.iter_mut().zip(&shares).filter(|(_, share)| share.len() > least).take(extra) {
        *quota += 1;
    }
    extra -= quotas.iter().filter(|quota| **quota > least).count();
    for quota in &mut quotas {
        if extra > 0 && *quota == least {
            extra -= 1;
            *quota += 1;
        }
    }
    for (share, quota) in shares.iter_mut().zip(&quotas) {
        if share.len() > *quota {
            free.extend(share.drain(*quota..));
        }
    }
    let mut free = free.into_iter();
    for (share, quota) in shares.iter_mut().zip(&quotas) {
        let missing = quota.saturating_sub(share.len());
        share.extend(free.by_ref().take(missing));
    }
    shares.into_iter().map(partitions_of).collect()
}
