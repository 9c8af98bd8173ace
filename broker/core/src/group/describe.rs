//! DescribeGroups and ListGroups.

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::GroupId;
use kafka_protocol::messages::describe_groups_response::{DescribedGroup, DescribedGroupMember};
use kafka_protocol::messages::list_groups_response::ListedGroup;
use kafka_protocol::protocol::StrBytes;

use super::classic::{CONSUMER, ClassicGroup, State};
use super::{Group, Groups};

/// What a group that does not exist is said to be.
const DEAD: &str = "Dead";
/// The types of groups, in answers and in filters.
const CLASSIC_TYPE: &str = "classic";
const CONSUMER_TYPE: &str = "consumer";

/// One group of a DescribeGroups, which is for classic groups. Below version 6 a group that is not there is no error.
pub(super) fn describe(groups: &Groups, id: GroupId, version: i16) -> DescribedGroup {
    let why = match groups.get(&id.0) {
        Some(Group::Classic(group)) => return of_classic(group).with_group_id(id),
        Some(Group::Consumer(_)) => "is not a classic group",
        None => "not found",
    };
    if version < 6 {
        return unknown(id);
    }
    let message = StrBytes::from_string(format!("Group {} {why}.", id.as_str()));
    unknown(id).with_error_code(ResponseError::GroupIdNotFound.code()).with_error_message(Some(message))
}

fn unknown(id: GroupId) -> DescribedGroup {
    DescribedGroup::default().with_group_id(id).with_group_state(StrBytes::from_static_str(DEAD))
}

fn of_classic(group: &ClassicGroup) -> DescribedGroup {
    // Between generations it is not settled what members say about themselves for the next one.
    let protocol = group.protocol_name().filter(|_| group.state() == State::Stable);
    let members = group.members().iter().map(|(member_id, member)| {
        DescribedGroupMember::default()
            .with_member_id(member_id.clone())
            .with_group_instance_id(member.instance_id.clone())
            .with_client_id(member.client_id.clone())
            .with_client_host(member.client_host.clone())
            .with_member_metadata(protocol.map(|name| member.metadata(name)).unwrap_or_default())
            .with_member_assignment(member.assignment.clone())
    });
    DescribedGroup::default()
        .with_group_state(StrBytes::from_static_str(group.state().name()))
        .with_protocol_type(group.protocol_type().cloned().unwrap_or_default())
        .with_protocol_data(protocol.cloned().unwrap_or_default())
        .with_members(members.collect())
}

/// Both filters do not mind the case. A type that nobody knows lets nothing through.
pub(super) fn list(groups: &Groups, states: &[String], types: &[String]) -> Vec<ListedGroup> {
    let among = |names: &[String], name: &str| {
        names.is_empty() || names.iter().any(|wanted| wanted.trim().eq_ignore_ascii_case(name))
    };
    let listed = groups.iter().map(|(id, group)| {
        let (of_type, state, protocol_type) = match group {
            Group::Classic(group) => {
                (CLASSIC_TYPE, group.state().name(), group.protocol_type().cloned().unwrap_or_default())
            }
            Group::Consumer(group) => {
                (CONSUMER_TYPE, group.state().name(), StrBytes::from_static_str(CONSUMER))
            }
        };
        ListedGroup::default()
            .with_group_id(GroupId(id.clone()))
            .with_protocol_type(protocol_type)
            .with_group_state(StrBytes::from_static_str(state))
            .with_group_type(StrBytes::from_static_str(of_type))
    });
    listed.filter(|group| among(types, &group.group_type) && among(states, &group.group_state)).collect()
}
