//! The answers to GET: the service's WSDL 1.1 document, or a page for people.

use http::{StatusCode, header};
use quick_xml::escape::escape;

use super::soap::Operation;
use super::{SERVICE_PATH, Settings, typed, xml_answer};
use crate::request::{Request, Response};

/// Answers a GET: `?wsdl` and `?singleWsdl` (case-insensitive) get the WSDL, everything else the
/// page.
pub(super) fn page(settings: &Settings, request: &Request) -> Response {
    let query = request.query.as_deref().unwrap_or_default();
    let names = query.split('&').map(|pair| pair.split('=').next().unwrap_or_default());
    let wants_wsdl =
        names.into_iter().any(|name| name.eq_ignore_ascii_case("wsdl") || name.eq_ignore_ascii_case("singleWsdl"));
    if wants_wsdl {
        xml_answer(StatusCode::OK, description(settings, &address(request)))
    } else {
        typed(StatusCode::OK, "text/html; charset=UTF-8", service_page(&address(request)))
    }
}

/// The address at which the caller reached the service.
fn address(request: &Request) -> String {
    let host = request.headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or("localhost");
    let scheme = if request.tls { "https" } else { "http" };
    format!("{scheme}://{host}{SERVICE_PATH}")
}

fn service_page(address: &str) -> String {
    let wsdl = escape(format!("{address}?wsdl")).into_owned();
    let single = escape(format!("{address}?singleWsdl")).into_owned();
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><title>DSServices Service</title></head><body>\n\
         <h1>DSServices Service</h1>\n<p>This is a SOAP 1.1 service. Its description, from which a client can be built:</p>\n\
         <ul><li><a href=\"{wsdl}\">{wsdl}</a></li>\n<li><a href=\"{single}\">{single}</a></li></ul>\n</body></html>\n"
    )
}

/// One self-contained document, without imports.
fn description(settings: &Settings, address: &str) -> String {
    let service = escape(settings.service_namespace.as_str());
    let data = escape(settings.data_namespace.as_str());
    let contract = escape(settings.contract.as_str());
    let each = |part: &dyn Fn(Operation) -> String| Operation::ALL.into_iter().map(part).collect::<String>();

    let elements = each(&|operation| {
        let name = operation.name();
        format!(
            r#"
      <xs:element name="{name}"><xs:complexType><xs:sequence>
        <xs:element minOccurs="0" name="request" nillable="true" type="q:{name}Request"/>
      </xs:sequence></xs:complexType></xs:element>
      <xs:element name="{name}Response"><xs:complexType><xs:sequence>
        <xs:element minOccurs="0" name="{name}Result" nillable="true" type="q:{name}Response"/>
      </xs:sequence></xs:complexType></xs:element>"#
        )
    });
    let messages = each(&|operation| {
        let name = operation.name();
        format!(
            r#"
  <wsdl:message name="{contract}_{name}_InputMessage"><wsdl:part name="parameters" element="tns:{name}"/></wsdl:message>
  <wsdl:message name="{contract}_{name}_OutputMessage"><wsdl:part name="parameters" element="tns:{name}Response"/></wsdl:message>"#
        )
    });
    // WCF's client generator reads the actions from here.
    let operations = each(&|operation| {
        let name = operation.name();
        format!(
            r#"
    <wsdl:operation name="{name}">
      <wsdl:input wsaw:Action="{action}" message="tns:{contract}_{name}_InputMessage"/>
      <wsdl:output wsaw:Action="{action}Response" message="tns:{contract}_{name}_OutputMessage"/>
    </wsdl:operation>"#,
            action = escape(operation.action(settings)),
        )
    });
    let bindings = each(&|operation| {
        format!(
            r#"
    <wsdl:operation name="{}">
      <soap:operation soapAction="{}" style="document"/>
      <wsdl:input><soap:body use="literal"/></wsdl:input>
      <wsdl:output><soap:body use="literal"/></wsdl:output>
    </wsdl:operation>"#,
            operation.name(),
            escape(operation.action(settings)),
        )
    });
    let address = escape(address);
    // A client may read Status as an enumeration of these words.
    let types = DATA_TYPES.replace("Succeed", settings.success_word.word());
    format!(
        r#"<?xml version="1.0" encoding="utf-8"?>
<wsdl:definitions name="DSServices" targetNamespace="{service}" xmlns:tns="{service}" xmlns:q="{data}" xmlns:wsdl="http://schemas.xmlsoap.org/wsdl/" xmlns:soap="http://schemas.xmlsoap.org/wsdl/soap/" xmlns:wsaw="http://www.w3.org/2006/05/addressing/wsdl" xmlns:xs="http://www.w3.org/2001/XMLSchema">
  <wsdl:types>
    <xs:schema elementFormDefault="qualified" targetNamespace="{data}">{types}
    </xs:schema>
    <xs:schema elementFormDefault="qualified" targetNamespace="{service}">
      <xs:import namespace="{data}"/>{elements}
    </xs:schema>
  </wsdl:types>{messages}
  <wsdl:portType name="{contract}">{operations}
  </wsdl:portType>
  <wsdl:binding name="BasicHttpBinding_{contract}" type="tns:{contract}">
    <soap:binding transport="http://schemas.xmlsoap.org/soap/http" style="document"/>{bindings}
  </wsdl:binding>
  <wsdl:service name="DSServices">
    <wsdl:port name="BasicHttpBinding_{contract}" binding="tns:BasicHttpBinding_{contract}">
      <soap:address location="{address}"/>
    </wsdl:port>
  </wsdl:service>
</wsdl:definitions>
"#
    )
}

/// The data contracts. Sequences are in the order of a DataContractSerializer: base class, then
/// derived class, each sorted by name.
const DATA_TYPES: &str = r#"
      <xs:complexType name="User"><xs:sequence>
        <xs:element minOccurs="0" name="Password" nillable="true" type="xs:string"/>
        <xs:element minOccurs="0" name="Username" nillable="true" type="xs:string"/>
      </xs:sequence></xs:complexType>
      <xs:complexType name="RequestBase"><xs:sequence>
        <xs:element minOccurs="0" name="RequestInitiator" nillable="true" type="xs:string"/>
        <xs:element minOccurs="0" name="User" nillable="true" type="q:User"/>
      </xs:sequence></xs:complexType>
      <xs:complexType name="InitiateRefundRequest"><xs:complexContent><xs:extension base="q:RequestBase"><xs:sequence>
        <xs:element minOccurs="0" name="AccountReferenceNo" nillable="true" type="xs:string"/>
        <xs:element minOccurs="0" name="Amount" type="xs:decimal"/>
        <xs:element minOccurs="0" name="Description" nillable="true" type="xs:string"/>
        <xs:element minOccurs="0" name="ExternalAccountReferenceNo" nillable="true" type="xs:string"/>
        <xs:element minOccurs="0" name="ExternalRefundIdentifier" nillable="true" type="xs:string"/>
      </xs:sequence></xs:extension></xs:complexContent></xs:complexType>
      <xs:complexType name="GetRefundStatusRequest"><xs:complexContent><xs:extension base="q:RequestBase"><xs:sequence>
        <xs:element minOccurs="0" name="AccountReferenceNo" nillable="true" type="xs:string"/>
        <xs:element minOccurs="0" name="ExternalAccountReferenceNo" nillable="true" type="xs:string"/>
        <xs:element minOccurs="0" name="ExternalRefundIdentifier" nillable="true" type="xs:string"/>
        <xs:element minOccurs="0" name="RefundRequestNumber" nillable="true" type="xs:int"/>
      </xs:sequence></xs:extension></xs:complexContent></xs:complexType>
      <xs:simpleType name="ResponseStatus"><xs:restriction base="xs:string">
        <xs:enumeration value="Failed"/><xs:enumeration value="Succeed"/><xs:enumeration value="Unknown"/>
      </xs:restriction></xs:simpleType>
      <xs:simpleType name="ResponseNoteType"><xs:restriction base="xs:string">
        <xs:enumeration value="Error"/><xs:enumeration value="Warning"/><xs:enumeration value="Info"/>
      </xs:restriction></xs:simpleType>
      <xs:complexType name="ResponseMessageNote"><xs:sequence>
        <xs:element minOccurs="0" name="Code" nillable="true" type="xs:string"/>
        <xs:element minOccurs="0" name="Note" nillable="true" type="xs:string"/>
        <xs:element minOccurs="0" name="NoteType" type="q:ResponseNoteType"/>
      </xs:sequence></xs:complexType>
      <xs:complexType name="ArrayOfResponseMessageNote"><xs:sequence>
        <xs:element minOccurs="0" maxOccurs="unbounded" name="ResponseMessageNote" nillable="true" type="q:ResponseMessageNote"/>
      </xs:sequence></xs:complexType>
      <xs:complexType name="ResponseBase"><xs:sequence>
        <xs:element minOccurs="0" name="DateCreated" type="xs:dateTime"/>
        <xs:element minOccurs="0" name="Id" nillable="true" type="xs:string"/>
        <xs:element minOccurs="0" name="ResponseNotes" nillable="true" type="q:ArrayOfResponseMessageNote"/>
        <xs:element minOccurs="0" name="Status" type="q:ResponseStatus"/>
      </xs:sequence></xs:complexType>
      <xs:complexType name="InitiateRefundResponse"><xs:complexContent><xs:extension base="q:ResponseBase"><xs:sequence>
        <xs:element minOccurs="0" name="ExternalRefundIdentifier" nillable="true" type="xs:string"/>
        <xs:element minOccurs="0" name="RefundRequestNumber" nillable="true" type="xs:int"/>
      </xs:sequence></xs:extension></xs:complexContent></xs:complexType>
      <xs:complexType name="GetRefundStatusResponse"><xs:complexContent><xs:extension base="q:ResponseBase"><xs:sequence>
        <xs:element minOccurs="0" name="ExternalRefundIdentifier" nillable="true" type="xs:string"/>
        <xs:element minOccurs="0" name="Note" nillable="true" type="xs:string"/>
        <xs:element minOccurs="0" name="RefundAmount" nillable="true" type="xs:decimal"/>
        <xs:element minOccurs="0" name="RefundRequestNumber" nillable="true" type="xs:int"/>
        <xs:element minOccurs="0" name="RefundStatus" nillable="true" type="xs:string"/>
      </xs:sequence></xs:extension></xs:complexContent></xs:complexType>"#;
