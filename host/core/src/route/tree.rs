//! What expressions are made of, for whoever walks them.

use cel::common::ast::{ComprehensionExpr, EntryExpr, Expr, IdedExpr, LiteralValue, operators};

use super::types::Kind;

/// `root.a["b"].c`, as far as it names fields.
pub(crate) struct FieldPath<'e> {
    /// The name that it starts with.
    pub(crate) root: &'e str,
    /// The fields behind it.
    pub(crate) fields: Vec<&'e str>,
    test: bool,
    optional: bool,
}

impl FieldPath<'_> {
    /// What it evaluates to.
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self { test: true, .. } => Kind::Bool,
            Self { optional: true, .. } => Kind::Optional,
            _ => Kind::Any,
        }
    }
}

/// The path that `node` spells; none if it is anything else.
pub(crate) fn path_of(node: &IdedExpr) -> Option<FieldPath<'_>> {
    match &node.expr {
        Expr::Ident(name) => Some(FieldPath { root: name, fields: Vec::new(), test: false, optional: false }),
        Expr::Select(select) => {
            let mut path = path_of(&select.operand).filter(|path| !path.test)?;
            path.fields.push(&select.field);
            path.test = select.test;
            Some(path)
        }
        Expr::Call(call) => {
            let optional = match call.func_name.as_str() {
                operators::INDEX => false,
                operators::OPT_INDEX | operators::OPT_SELECT => true,
                _ => return None,
            };
            let [target, field] = call.args.as_slice() else { return None };
            let Expr::Literal(LiteralValue::String(field)) = &field.expr else { return None };
            let mut path = path_of(target).filter(|path| !path.test)?;
            path.fields.push(field.inner());
            path.optional |= optional;
            Some(path)
        }
        _ => None,
    }
}

/// The parts that `node` is directly made of.
pub(crate) fn children(node: &IdedExpr) -> Vec<&IdedExpr> {
    fn of_entry(entry: &EntryExpr) -> Vec<&IdedExpr> {
        match entry {
            EntryExpr::StructField(field) => vec![&field.value],
            EntryExpr::MapEntry(entry) => vec![&entry.key, &entry.value],
        }
    }
    match &node.expr {
        Expr::Call(call) => call.target.as_deref().into_iter().chain(&call.args).collect(),
        Expr::Comprehension(inner) => {
            vec![&inner.iter_range, &inner.accu_init, &inner.loop_cond, &inner.loop_step, &inner.result]
        }
        Expr::List(list) => list.elements.iter().collect(),
        Expr::Map(map) => map.entries.iter().flat_map(|entry| of_entry(&entry.expr)).collect(),
        Expr::Struct(message) => message.entries.iter().flat_map(|entry| of_entry(&entry.expr)).collect(),
        Expr::Select(select) => vec![&*select.operand],
        Expr::Unspecified | Expr::Ident(_) | Expr::Literal(_) => Vec::new(),
    }
}

/// Whether `node` is nothing but the variable `name`.
pub(crate) fn is_variable(node: &IdedExpr, name: &str) -> bool {
    matches!(&node.expr, Expr::Ident(known) if known == name)
}

/// The kind of a literal.
pub(crate) fn literal_kind(literal: &LiteralValue) -> Kind {
    match literal {
        LiteralValue::Boolean(_) => Kind::Bool,
        LiteralValue::Bytes(_) => Kind::Bytes,
        LiteralValue::Double(_) => Kind::Double,
        LiteralValue::Int(_) => Kind::Int,
        LiteralValue::Null => Kind::Null,
        LiteralValue::String(_) => Kind::Text,
        LiteralValue::UInt(_) => Kind::Uint,
    }
}

/// The parts that `node` is directly made of, to change.
pub(crate) fn children_mut(node: &mut IdedExpr) -> Vec<&mut IdedExpr> {
    match &mut node.expr {
        Expr::Call(call) => call.target.as_deref_mut().into_iter().chain(&mut call.args).collect(),
        Expr::Comprehension(inner) => {
            let ComprehensionExpr { iter_range, accu_init, loop_cond, loop_step, result, .. } = &mut **inner;
            vec![iter_range, accu_init, loop_cond, loop_step, result]
        }
        Expr::List(list) => list.elements.iter_mut().collect(),
        Expr::Map(map) => map.entries.iter_mut().flat_map(|entry| entry_children_mut(&mut entry.expr)).collect(),
        Expr::Struct(message) => {
            message.entries.iter_mut().flat_map(|entry| entry_children_mut(&mut entry.expr)).collect()
        }
        Expr::Select(select) => vec![&mut *select.operand],
        Expr::Unspecified | Expr::Ident(_) | Expr::Literal(_) => Vec::new(),
    }
}

fn entry_children_mut(entry: &mut EntryExpr) -> Vec<&mut IdedExpr> {
    match entry {
        EntryExpr::StructField(field) => vec![&mut field.value],
        EntryExpr::MapEntry(entry) => vec![&mut entry.key, &mut entry.value],
    }
}
